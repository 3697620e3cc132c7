package guestapi

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// docs/protocol.md has a row for every request and every event.
func TestProtocolIsDescribed(t *testing.T) {
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, host, _ := strings.Cut(string(text), "\n## From the host\n")
	host, guest, found := strings.Cut(host, "\n## From the guest\n")
	if !found {
		t.Fatal("docs/protocol.md has other headings")
	}
	for _, side := range []struct {
		text    string
		message reflect.Type
	}{{host, reflect.TypeFor[Request]()}, {guest, reflect.TypeFor[Event]()}} {
		for field := range side.message.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if field.Type.Kind() == reflect.Pointer && !strings.Contains(side.text, "\n| `"+name+"` | ") {
				t.Errorf("%s: no row for %s", side.message, name)
			}
		}
	}
}
