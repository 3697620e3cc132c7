package lifecycle

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/machine"
)

// Templates go with their image, and when nobody has used them for long.
func TestTemplatesGo(t *testing.T) {
	home := machine.Home(t.TempDir())
	const one, other = "sha256:0123456789abcdef", "sha256:fedcba9876543210"
	made := func(name string, age time.Duration) string {
		dir := filepath.Join(home.Templates(), name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(dir, then, then); err != nil {
			t.Fatal(err)
		}
		return name
	}
	made(imagePrefix(one)+"a", 0)
	made(imagePrefix(one)+"b", 0)
	kept := []string{made(draftTemplate+"young", time.Minute), made(imagePrefix(other)+"a", keepTemplates-time.Hour)}
	made(imagePrefix(other)+"b", keepTemplates+time.Hour)
	made(draftTemplate+"old", keepDrafts+time.Minute)

	if err := RemoveTemplates(home, one); err != nil {
		t.Fatal(err)
	}
	sweepTemplates(home.Templates())
	entries, err := os.ReadDir(home.Templates())
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if !slices.Equal(left, kept) {
		t.Errorf("left are %q, want %q", left, kept)
	}
}

// A template whose disk is not as it was, because it was restored from a backup, say, goes,
// so that another one is made. One that could not be made is not tried again at once.
func TestUselessTemplates(t *testing.T) {
	template := machine.Dir(filepath.Join(t.TempDir(), "template"))
	write := func() {
		if err := os.WriteFile(template.Disk(), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(string(template), 0o700); err != nil {
		t.Fatal(err)
	}
	write()
	draft, err := frozen.New(template.Frozen(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	if err := errors.Join(os.WriteFile(draft.Devices(), nil, 0o600), draft.Commit("shape", template.Disk())); err != nil {
		t.Fatal(err)
	}
	if existing(string(template)) == "" {
		t.Error("a good template is none")
	}
	time.Sleep(10 * time.Millisecond)
	if err := os.Remove(template.Disk()); err != nil {
		t.Fatal(err)
	}
	write()
	if existing(string(template)) != "" {
		t.Error("a template with another disk is one")
	}
	if _, err := os.Stat(string(template)); err == nil {
		t.Error("it is still there")
	}
	if failedLately(string(template)) {
		t.Error("it counts as failed")
	}
	if err := os.Mkdir(string(template), 0o700); err != nil {
		t.Fatal(err)
	}
	if existing(string(template)) != "" || !failedLately(string(template)) {
		t.Error("one that could not be made is tried again")
	}
}

// Machines with the labels that all of their maker's have are made of a template that has
// them; any others are made of one that has none.
func TestTemplateOfCommonLabels(t *testing.T) {
	common := []string{"provider=xhyve"}
	key := func(labels ...string) string {
		options := CreateOptions{Spec: machine.Spec{Labels: labels}, CommonLabels: common}
		return templateKey(&machine.Machine{Spec: machine.Spec{Image: "sha256:0123"}}, options.templateLabels(), "")
	}
	if key("provider=xhyve") == key() {
		t.Error("a machine with the common labels is made of a template without any")
	}
	if key("provider=xhyve", "a=b") != key() || key("a=b") != key() {
		t.Error("a machine with other labels has a template of its own")
	}
}
