package dockerenv

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
)

// currentKey names the current context in docker's config.json. Its absence
// means the context "default". docker, like encoding/json, does not mind case.
const currentKey = "currentContext"

const jsonSpace = " \t\r\n"

// maxEdits bounds how often an edit begins again because somebody else has
// written config.json meanwhile.
const maxEdits = 20

func (s Store) configPath() string { return filepath.Join(s.Dir, "config.json") }

// Current returns the name of the docker CLI's current context as config.json
// has it; DOCKER_HOST and DOCKER_CONTEXT overrule it.
func (s Store) Current() (string, error) {
	data, err := readIfThere(s.configPath())
	if err != nil {
		return "", fmt.Errorf("reading docker's configuration: %w", err)
	}
	name, err := current(data)
	if err != nil {
		return "", s.foreign(err)
	}
	return cmp.Or(name, "default"), nil
}

// current returns the current context that docker would take from src.
func current(src []byte) (string, error) {
	src = bytes.Trim(src, jsonSpace)
	if len(src) == 0 { // docker takes an empty file for none
		return "", nil
	}
	if src[0] != '{' {
		return "", errors.New("it is not a JSON object")
	}
	var config struct {
		CurrentContext string `json:"currentContext"`
	}
	err := json.Unmarshal(src, &config)
	return config.CurrentContext, err
}

// setCurrent edits the one key in config.json; no name removes it. Everything
// else in the user's file, which may hold the only copy of passwords, stays as
// it is: a file that is no JSON object is refused, a symbolic link is followed,
// mode and owner are kept.
func (s Store) setCurrent(name string) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("making docker's directory: %w", err)
	}
	lock := flock.New(filepath.Join(s.Dir, ".hyve.lock"), flock.SetPermissions(0o600))
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("locking docker's configuration: %w", err)
	}
	defer lock.Close()

	path := s.configPath()
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return fmt.Errorf("following docker's configuration: %w", err)
		}
	}
	for range maxEdits {
		before, err := readIfThere(path)
		if err != nil {
			return fmt.Errorf("reading docker's configuration: %w", err)
		}
		after, err := editCurrent(before, name)
		if err != nil {
			return s.foreign(err)
		}
		if bytes.Equal(before, after) {
			return nil
		}
		if done, err := replace(path, before, after); err != nil {
			return fmt.Errorf("writing docker's configuration: %w", err)
		} else if done {
			return nil
		}
	}
	return fmt.Errorf("writing docker's configuration: %s changed %d times meanwhile", path, maxEdits)
}

func (s Store) foreign(cause error) error {
	return hint.With(
		fmt.Errorf("reading docker's configuration %s: %w", s.configPath(), cause),
		"correct it: docker does not work with it either",
	)
}

// replace writes after to path in one step, unless before is not there any
// more: the docker CLI takes no lock.
func replace(path string, before, after []byte) (done bool, err error) {
	file, err := renameio.NewPendingFile(path,
		renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(0o600), renameio.WithExistingPermissions())
	if err != nil {
		return false, err
	}
	defer file.Cleanup()
	if info, err := os.Stat(path); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			file.Chown(int(stat.Uid), int(stat.Gid)) // only root can, and needs to
		}
	}
	if _, err := file.Write(after); err != nil {
		return false, err
	}
	if err := file.Sync(); err != nil { // slow, so before the last look
		return false, err
	}
	now, err := readIfThere(path)
	if err != nil || !bytes.Equal(now, before) {
		return false, err
	}
	return true, file.CloseAtomicallyReplace()
}

// readIfThere reads a file; one that is not there is empty.
func readIfThere(path string) ([]byte, error) {
	data, err := bounded.ReadFile(path, bounded.MaxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// editCurrent returns docker's configuration with another current context, or
// none if name is empty, and every other byte as it was. A new key goes to the
// end, set off as the last one is.
func editCurrent(src []byte, name string) ([]byte, error) {
	if _, err := current(src); err != nil {
		return nil, err
	}
	if len(bytes.Trim(src, jsonSpace)) == 0 {
		if name == "" {
			return src, nil
		}
		src = []byte("{}\n")
	}
	list, err := members(src)
	if err != nil {
		return nil, err
	}
	found := len(list) - 1
	for found >= 0 && !strings.EqualFold(list[found].key, currentKey) {
		found--
	}
	if name == "" {
		if found < 0 {
			return src, nil
		}
		return editCurrent(cut(src, list, found), "") // it may be there twice
	}
	value, err := json.Marshal(name)
	if err != nil {
		return nil, err
	}
	if found >= 0 { // of several the last one counts
		return splice(src, list[found].value, list[found].end, string(value)), nil
	}
	key := `"` + currentKey + `"`
	if len(list) == 0 {
		return splice(src, bytes.IndexByte(src, '{')+1, bytes.LastIndexByte(src, '}'),
			"\n\t"+key+": "+string(value)+"\n"), nil
	}
	last := list[len(list)-1]
	before := len(bytes.TrimRight(src[:last.start], jsonSpace))
	return splice(src, last.end, last.end, ","+
		string(src[before:last.start])+key+string(src[last.keyEnd:last.value])+string(value)), nil
}

// cut removes a member together with the comma that becomes one too many.
func cut(src []byte, list []member, i int) []byte {
	switch {
	case i > 0:
		return splice(src, list[i-1].end, list[i].end, "")
	case len(list) > 1:
		return splice(src, list[0].start, list[1].start, "")
	}
	return splice(src, bytes.IndexByte(src, '{')+1, bytes.LastIndexByte(src, '}'), "")
}

func splice(src []byte, from, to int, text string) []byte {
	return bytes.Join([][]byte{src[:from], src[to:]}, []byte(text))
}

// A member of a JSON object: offsets of its key and value, end exclusive.
type member struct {
	key                       string
	start, keyEnd, value, end int
}

// members takes apart the valid JSON object that is all of src.
func members(src []byte) ([]member, error) {
	decoder := json.NewDecoder(bytes.NewReader(src))
	if _, err := decoder.Token(); err != nil {
		return nil, err
	}
	var list []member
	for offset := bytes.IndexByte(src, '{'); decoder.More(); {
		key, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		keyEnd := int(decoder.InputOffset())
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		start := offset + bytes.IndexByte(src[offset:], '"') // after blanks and a comma
		offset = int(decoder.InputOffset())
		list = append(list, member{key.(string), start, keyEnd, offset - len(value), offset})
	}
	return list, nil
}
