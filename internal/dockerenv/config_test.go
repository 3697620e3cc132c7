package dockerenv

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestEditCurrent(t *testing.T) {
	for _, test := range []struct{ src, name, want string }{
		{"", "x", "{\n\t\"currentContext\": \"x\"\n}\n"},
		{"{}", "x", "{\n\t\"currentContext\": \"x\"\n}"},
		{" { } \n", "x", " {\n\t\"currentContext\": \"x\"\n} \n"},
		{"{\n\t\"auths\": {},\n\t\"credsStore\": \"osxkeychain\"\n}", "x",
			"{\n\t\"auths\": {},\n\t\"credsStore\": \"osxkeychain\",\n\t\"currentContext\": \"x\"\n}"},
		{"{\n  \"a\" : 1\n}\n", "x", "{\n  \"a\" : 1,\n  \"currentContext\" : \"x\"\n}\n"},
		{`{"a":1}`, "x", `{"a":1,"currentContext":"x"}`},
		{`{ "a": [1, {"currentContext": "inner"}] }`, "x", `{ "a": [1, {"currentContext": "inner"}], "currentContext": "x" }`},
		{"{\r\n  \"a\": 1\r\n}\r\n", "x", "{\r\n  \"a\": 1,\r\n  \"currentContext\": \"x\"\r\n}\r\n"},
		{`{"currentContext": "old", "a": 1.0e+5}`, "x", `{"currentContext": "x", "a": 1.0e+5}`},
		{`{"currentContext":null}`, `q"<`, `{"currentContext":"q\"\u003c"}`},
		{`{"CURRENTCONTEXT": "old"}`, "x", `{"CURRENTCONTEXT": "x"}`},
		{`{"current\u0043ontext": "old"}`, "x", `{"current\u0043ontext": "x"}`},
		{`{"currentContext":"a","b":2,"currentContext":"c"}`, "x", `{"currentContext":"a","b":2,"currentContext":"x"}`},
		{"", "", ""},
		{"{}", "", "{}"},
		{`{"a" : 1 }`, "", `{"a" : 1 }`},
		{`{"currentContext":"a","b":2,"currentContext":"c"}`, "", `{"b":2}`},
		{"{\n\t\"a\": {},\n\t\"currentContext\": \"x\"\n}", "", "{\n\t\"a\": {}\n}"},
		{"{\n\t\"currentContext\": \"x\",\n\t\"a\": {}\n}", "", "{\n\t\"a\": {}\n}"},
		{"{\n\t\"currentContext\": \"x\"\n}\n", "", "{}\n"},
	} {
		got, err := editCurrent([]byte(test.src), test.name)
		if string(got) != test.want || err != nil {
			t.Errorf("%q to %q: got %q, error %v, want %q", test.src, test.name, got, err, test.want)
		}
	}
	for _, src := range []string{"[]", "null", "1", "\v", "{}\v", `"x"`, "{", `{"a":1}}`, `{"a":1} {"b":2}`, `{"a":1,}`, "\xef\xbb\xbf{}", `{"a":`, "// x\n{}", "auths:", `{"currentContext":1}`} {
		for _, name := range []string{"x", ""} {
			if got, err := editCurrent([]byte(src), name); err == nil {
				t.Errorf("%q to %q: got %q, want an error", src, name, got)
			}
		}
	}
}

// others decodes an object without the current context's keys.
func others(t *testing.T, src []byte) (map[string]any, []string) {
	t.Helper()
	var object map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(src)))
	decoder.UseNumber()
	if err := decoder.Decode(&object); err != nil {
		t.Fatalf("%q: %v", src, err)
	}
	list, err := members(src)
	if err != nil {
		t.Fatalf("%q: %v", src, err)
	}
	var texts []string
	for _, m := range list {
		if strings.EqualFold(m.key, currentKey) {
			delete(object, m.key)
		} else {
			texts = append(texts, string(src[m.start:m.end]))
		}
	}
	return object, texts
}

func FuzzEditCurrent(f *testing.F) {
	for _, src := range []string{"{}", `{"a":1}`, "{\n\t\"auths\": {\"x\": {}},\n\t\"currentContext\": \"y\"\n}\n",
		`{"currentContext":null , "currentcontext" : "a","\u0063urrentContext":"","b":"\ud800"}`, `{"currentContext":1}`, `{"a":-0.1e9,"":true}`, `[]`} {
		f.Add(src, "hyve-dev")
	}
	f.Fuzz(func(t *testing.T, src, name string) {
		name = strings.ToValidUTF8(name, "?")
		set, err := editCurrent([]byte(src), name)
		var object *struct{ CurrentContext string }
		if good := strings.Trim(src, jsonSpace) == "" || json.Unmarshal([]byte(src), &object) == nil && object != nil; good != (err == nil) {
			t.Fatalf("%q: error %v", src, err)
		}
		if err != nil || strings.Trim(src, jsonSpace) == "" {
			return
		}
		wantObject, wantTexts := others(t, []byte(src))
		if gotObject, gotTexts := others(t, set); !reflect.DeepEqual(gotObject, wantObject) || !reflect.DeepEqual(gotTexts, wantTexts) {
			t.Errorf("%q to %q: %q changes more than the one key", src, name, set)
		}
		if name != "" {
			var config struct{ CurrentContext string }
			if err := json.Unmarshal(set, &config); err != nil || config.CurrentContext != name {
				t.Errorf("%q to %q: docker reads %q, error %v", src, name, config.CurrentContext, err)
			}
		}
		removed, err := editCurrent(set, "")
		if err != nil {
			t.Fatal(err)
		}
		gotObject, gotTexts := others(t, removed)
		if list, _ := members(removed); len(list) != len(gotTexts) || !reflect.DeepEqual(gotObject, wantObject) || !reflect.DeepEqual(gotTexts, wantTexts) {
			t.Errorf("%q: removed from %q it is %q", src, set, removed)
		}
		if list, _ := members([]byte(src)); len(list) > 0 && len(list) == len(wantTexts) && string(removed) != src {
			t.Errorf("%q became %q by setting and removing", src, removed)
		}
	})
}

func TestSetCurrentKeepsTheFile(t *testing.T) {
	dir := t.TempDir()
	s := Store{Dir: filepath.Join(dir, "docker")}
	if err := s.setCurrent(""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.configPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removing nothing made a file: %v", err)
	}
	if err := s.setCurrent("x"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.configPath())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a new file has mode %v, error %v", info.Mode(), err)
	}

	target := filepath.Join(dir, "dotfiles", "docker.json")
	os.Mkdir(filepath.Dir(target), 0o700)
	write(t, target, `{"auths": {}}`)
	os.Chmod(target, 0o640)
	os.Remove(s.configPath())
	os.Symlink("../dotfiles/docker.json", s.configPath())
	if err := s.setCurrent("x"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, target); got != `{"auths": {}, "currentContext": "x"}` && got != `{"auths": {},"currentContext": "x"}` {
		t.Errorf("the link's target holds %s", got)
	}
	if info, _ := os.Lstat(s.configPath()); info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is gone")
	}
	if info, _ := os.Stat(target); info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, want 0640", info.Mode())
	}
	if entries, _ := os.ReadDir(filepath.Dir(target)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}

	os.Remove(target)
	if err := s.setCurrent("x"); err == nil {
		t.Error("a dangling link was accepted")
	}
}

func TestSetCurrentKeepsTheOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	s := Store{Dir: t.TempDir()}
	write(t, s.configPath(), "{}")
	os.Chown(s.configPath(), 1234, 2345)
	if err := s.setCurrent("x"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.configPath())
	if err != nil {
		t.Fatal(err)
	}
	if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 1234 || stat.Gid != 2345 {
		t.Errorf("owner %d:%d, want 1234:2345", stat.Uid, stat.Gid)
	}
}

func TestBrokenConfigIsRefused(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	for _, text := range []string{"{", "[]", `{"auths": {"x": "secret"}`, "\x00"} {
		write(t, s.configPath(), text)
		var hinted interface{ Hint() string }
		if err := s.setCurrent("x"); !errors.As(err, &hinted) || !strings.Contains(err.Error(), s.configPath()) {
			t.Errorf("%q: setting: %v", text, err)
		}
		if _, err := s.Current(); !errors.As(err, &hinted) {
			t.Errorf("%q: reading: %v", text, err)
		}
		if got := read(t, s.configPath()); got != text {
			t.Errorf("%q was overwritten with %q", text, got)
		}
	}
	write(t, s.configPath(), " \n")
	if current, err := s.Current(); current != "default" || err != nil {
		t.Errorf("empty: %q, error %v", current, err)
	}
}

func TestReplaceSeesOthersEdits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, "new")
	if done, err := replace(path, []byte("old"), []byte("mine")); done || err != nil || read(t, path) != "new" {
		t.Errorf("done %v, error %v, file %s", done, err, read(t, path))
	}
	os.Remove(path)
	if done, err := replace(path, []byte("old"), []byte("mine")); done || err != nil {
		t.Errorf("a file that went: done %v, error %v", done, err)
	}
}

func TestConcurrentEditsLoseNothing(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	write(t, s.configPath(), `{"auths": {"registry": {"auth": "c2VjcmV0"}}}`)
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			name := fmt.Sprint("c", i)
			if i%2 == 0 {
				name = ""
			}
			if err := s.setCurrent(name); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if err := s.setCurrent(""); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s.configPath()); got != `{"auths": {"registry": {"auth": "c2VjcmV0"}}}` {
		t.Errorf("config.json: %s", got)
	}
}
