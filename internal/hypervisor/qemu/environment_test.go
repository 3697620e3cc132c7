package qemu

import (
	"slices"
	"testing"
)

func TestEnvironment(t *testing.T) {
	got := environment([]string{"PATH=/bin", "TOKEN=x", "LC_ALL=C", "SSH_AUTH_SOCK=/s", "LD_PRELOAD=/x", "LANG=C", "HTTPS_PROXY=http://u:p@h", "LCX=1", "LC_TOKEN=x", "LC_=x", "PATHS=1", "=x"})
	if want := []string{"PATH=/bin", "LC_ALL=C", "LANG=C"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := environment(nil); got == nil {
		t.Error("an empty environment would be the caller's")
	}
}
