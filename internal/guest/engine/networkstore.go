package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"go.etcd.io/bbolt"
)

// networkStore is where dockerd keeps its networks, a bbolt data base with one
// bucket. A key is storePrefix, a kind, IDs and a slash at the end; a value is
// eight bytes of counter and JSON. The layout is libnetwork's, in moby's
// libnetwork/datastore and libnetwork/internal/kvstore/boltdb.
const (
	networkStore = "/var/lib/docker/network/files/local-kv.db"
	storeBucket  = "libnetwork"
	storePrefix  = "docker/network/v1.0/"
	storeCounter = 8
)

// ForgetDefaultBridge takes the default bridge out of the store of a dockerd that has ended,
// so that the next one starts in half the time. Where there is no such store it does nothing.
func ForgetDefaultBridge() error { return forgetDefaultBridge(networkStore) }

// forgetDefaultBridge takes the default bridge out of the network store of a
// dockerd that has ended. The next one would set it up from there, then delete it,
// then make it anew: of the hundred runs of iptables in its start, half are for
// the first two. Networks of users stay, and the store of a dockerd that did not
// end cleanly, with containers still in it, is left alone.
func forgetDefaultBridge(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("opening dockerd's networks: %w", err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(storeBucket))
		if bucket == nil {
			return nil
		}
		id := defaultBridge(bucket)
		if id == "" {
			return nil
		}
		for _, kind := range []string{"network/", "bridge/", "endpoint_count/"} {
			if err := bucket.Delete([]byte(storePrefix + kind + id + "/")); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("writing dockerd's networks: %w", err)
	}
	return nil
}

// defaultBridge returns the ID of the default bridge, "" if it is not there or
// the store also knows of containers.
func defaultBridge(bucket *bbolt.Bucket) (id string) {
	cursor := bucket.Cursor()
	for _, kind := range []string{"endpoint/", "bridge-endpoint/", "sandbox/"} {
		prefix := []byte(storePrefix + kind)
		if key, _ := cursor.Seek(prefix); bytes.HasPrefix(key, prefix) {
			return ""
		}
	}
	prefix := []byte(storePrefix + "network/")
	for key, value := cursor.Seek(prefix); bytes.HasPrefix(key, prefix); key, value = cursor.Next() {
		var network struct {
			ID, Name, NetworkType string
			Generic               map[string]json.RawMessage
		}
		if len(value) < storeCounter || json.Unmarshal(value[storeCounter:], &network) != nil {
			continue
		}
		var options map[string]string
		if json.Unmarshal(network.Generic["com.docker.network.generic"], &options) != nil {
			continue
		}
		if network.Name == "bridge" && network.NetworkType == "bridge" && options["com.docker.network.bridge.default_bridge"] == "true" {
			return network.ID
		}
	}
	return ""
}
