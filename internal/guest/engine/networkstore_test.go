package engine

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/bbolt"
)

func TestForgetDefaultBridge(t *testing.T) {
	const (
		bridge = `{"generic":{"com.docker.network.enable_ipv6":false,"com.docker.network.generic":{"com.docker.network.bridge.default_bridge":"true","com.docker.network.bridge.name":"docker0"}},"id":"b","name":"bridge","networkType":"bridge"}`
		users  = `{"generic":{"com.docker.network.generic":{}},"id":"u","name":"mine","networkType":"bridge"}`
		host   = `{"generic":{"com.docker.network.generic":{}},"id":"h","name":"host","networkType":"host"}`
	)
	networks := map[string]string{
		"network/b/": bridge, "bridge/b/": `{"ID":"b","DefaultBridge":true}`, "endpoint_count/b/": `{"Count":0}`,
		"network/u/": users, "bridge/u/": `{"ID":"u"}`, "endpoint_count/u/": `{"Count":0}`,
		"network/h/": host, "endpoint_count/h/": `{"Count":0}`,
	}
	with := func(key, value string) map[string]string {
		m := maps.Clone(networks)
		m[key] = value
		return m
	}
	kept := []string{"endpoint_count/h/", "endpoint_count/u/", "bridge/u/", "network/h/", "network/u/"}
	for name, test := range map[string]struct {
		store map[string]string
		want  []string
	}{
		"in order":    {networks, kept},
		"a container": {with("endpoint/b/e/", `{}`), append(slices.Collect(maps.Keys(networks)), "endpoint/b/e/")},
		"no bridge":   {map[string]string{"network/h/": host}, []string{"network/h/"}},
		"not JSON":    {map[string]string{"network/b/": "x", "bridge/b/": "x"}, []string{"network/b/", "bridge/b/"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "local-kv.db")
			inStore(t, path, func(b *bbolt.Bucket) {
				for key, value := range test.store {
					if err := b.Put([]byte(storePrefix+key), append(make([]byte, storeCounter), value...)); err != nil {
						t.Fatal(err)
					}
				}
			})
			for range 2 {
				if err := forgetDefaultBridge(path); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			inStore(t, path, func(b *bbolt.Bucket) {
				b.ForEach(func(key, _ []byte) error {
					got = append(got, string(key[len(storePrefix):]))
					return nil
				})
			})
			slices.Sort(got)
			slices.Sort(test.want)
			if !slices.Equal(got, test.want) {
				t.Errorf("left %q, want %q", got, test.want)
			}
		})
	}

	path := filepath.Join(t.TempDir(), "none")
	if err := forgetDefaultBridge(path); err != nil {
		t.Errorf("no store: %v", err)
	}
	if err := os.WriteFile(path, []byte("not a data base"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := forgetDefaultBridge(path); err == nil {
		t.Error("a damaged store is no error")
	}
}

func inStore(t *testing.T, path string, f func(*bbolt.Bucket)) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(storeBucket))
		if err == nil {
			f(b)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
