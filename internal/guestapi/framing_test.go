package guestapi

import (
	"bytes"
	"io"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestMessagesSurviveDamage(t *testing.T) {
	var stream bytes.Buffer
	stream.WriteString(`{"hello":{"version":1,"ses`) // a sender that was frozen
	w := NewWriter[Request](&stream)
	if err := w.Resync(); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(Request{Hello: &Hello{Version: Version, Session: 7}}); err != nil {
		t.Fatal(err)
	}
	stream.WriteString(strings.Repeat("x", MaxMessage+10) + "\n\n")
	if err := w.Write(Request{ID: 2, Shutdown: &Shutdown{Reboot: true}}); err != nil {
		t.Fatal(err)
	}
	r := NewReader[Request](&stream)
	damaged := 0
	r.Damaged = func(line []byte) {
		damaged++
		if len(line) > 200 {
			t.Errorf("a damaged line of %d bytes is passed on", len(line))
		}
	}
	first, err := r.Read()
	if err != nil || first.Hello == nil || first.Hello.Session != 7 {
		t.Errorf("first message: %+v, %v", first, err)
	}
	second, err := r.Read()
	if err != nil || second.Shutdown == nil || !second.Shutdown.Reboot || second.ID != 2 {
		t.Errorf("second message: %+v, %v", second, err)
	}
	if _, err := r.Read(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if damaged != 2 {
		t.Errorf("%d damaged lines were reported, want 2", damaged)
	}
}

func TestTooLongAMessageIsRefused(t *testing.T) {
	var stream bytes.Buffer
	w := NewWriter[Request](&stream)
	if err := w.Write(Request{Configure: &Config{Identity: Identity{CA: strings.Repeat("x", MaxMessage)}}}); err == nil || stream.Len() > 0 {
		t.Errorf("error %v, %d bytes written", err, stream.Len())
	}
}

// The longest line of a log is a message.
func TestEveryLineFits(t *testing.T) {
	var stream bytes.Buffer
	line := NewLine(strings.Repeat("\x01", 2*MaxLine))
	if err := NewWriter[Event](&stream).Write(Event{Log: &Log{Service: NewText(ServiceDockerd), Line: line}}); err != nil {
		t.Fatal(err)
	}
	if e, err := NewReader[Event](&stream).Read(); err != nil || e.Log.Line != line {
		t.Errorf("%.80q, %v", e.Log.Line, err)
	}
}

// A sender that was cut short begins anew.
func TestTornMessage(t *testing.T) {
	var stream bytes.Buffer
	w := NewWriter[Request](&cutShort{&stream, 5})
	for range 2 {
		w.Write(Request{ID: 7})
	}
	if r, err := NewReader[Request](&stream).Read(); err != nil || r.ID != 7 {
		t.Errorf("%+v, %v", r, err)
	}
}

// cutShort writes n bytes of the first message.
type cutShort struct {
	w io.Writer
	n int
}

func (c *cutShort) Write(b []byte) (int, error) {
	if c.n > 0 {
		n, _ := c.w.Write(b[:c.n])
		c.n = 0
		return n, io.ErrShortWrite
	}
	return c.w.Write(b)
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("{\"log\":{\"service\":\"init\",\"line\":\"x\"}}\n"))
	f.Add([]byte("\n\n{}\n{\"uptime\":-1}\nnull\n[]\n"))
	f.Add([]byte(`{"portOpened":{"id":1,"protocol":"tcp","hostIP":"fe80::1%eth0","port":80}}` + "\n"))
	f.Add([]byte(`{"failed":{"phase":"\u001b]0;x\u0007","cause":"\u202eab\ncd"}}` + "\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader[Event](bytes.NewReader(stream))
		for range bytes.Count(stream, []byte{'\n'}) + 1 {
			e, err := r.Read()
			if err != nil {
				return
			}
			checkTexts(t, reflect.ValueOf(e))
		}
		t.Error("more messages than lines")
	})
}

// checkTexts looks at everything that is text in a message, and fails on any that has no
// bound.
func checkTexts(t *testing.T, v reflect.Value) {
	switch text := v.Interface().(type) {
	case Text:
		checkText(t, text.String(), MaxText, "")
		return
	case Prose:
		checkText(t, text.String(), MaxProse, "\n")
		return
	case Line:
		if s := text.String(); len(s) > MaxLine || !utf8.ValidString(s) || strings.ContainsAny(s, "\r\n") {
			t.Errorf("a line of %d bytes", len(s))
		}
		return
	case Address:
		if strings.Contains(text.String(), "%") {
			t.Errorf("a zone: %q", text)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			checkTexts(t, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			checkTexts(t, v.Field(i))
		}
	case reflect.String, reflect.Slice, reflect.Map, reflect.Interface:
		t.Errorf("an event has a %s, which nobody bounds", v.Type())
	}
}

func checkText(t *testing.T, s string, limit int, allowed string) {
	t.Helper()
	bad := func(r rune) bool { return !unicode.IsGraphic(r) && !strings.ContainsRune(allowed, r) }
	if len(s) > limit || !utf8.ValidString(s) || strings.ContainsFunc(s, bad) {
		t.Errorf("a text of %d bytes: %q", len(s), s)
	}
}

// Every kind of event holds nothing but bounded text, those to come as well.
func TestEventsAreBounded(t *testing.T) {
	e := Event{}
	for v, i := reflect.ValueOf(&e).Elem(), 0; i < v.NumField(); i++ {
		if field := v.Field(i); field.Kind() == reflect.Pointer {
			field.Set(reflect.New(field.Type().Elem()))
		}
	}
	e.Reply.Usage = new(Usage)
	checkTexts(t, reflect.ValueOf(e))
}

func TestTexts(t *testing.T) {
	long := strings.Repeat("é", MaxProse)
	for in, want := range map[string]string{
		" plain\n":             "plain?",
		"\x1b]0;t\a\u202e\x9b": "?]0;t???",
		"\xff":                 "?",
		long:                   strings.Repeat("é", (MaxText-3)/2) + "…",
	} {
		if got := NewText(in).String(); got != want {
			t.Errorf("of %.40q: %q, want %q", in, got, want)
		}
	}
	if got := NewProse("a\nb\rc" + long).String(); !strings.HasPrefix(got, "a\nb?cé") || len(got) > MaxProse {
		t.Errorf("%.40q, %d bytes", got, len(got))
	}
	for _, bad := range []string{"fe80::1%" + strings.Repeat("x", 1000), "::1%a", "x", strings.Repeat("1", 1000)} {
		if _, err := ParseAddress(bad); err == nil {
			t.Errorf("%.40q is an address", bad)
		}
	}
	var a Address
	if err := a.UnmarshalJSON([]byte(`"::ffff:10.0.0.1"`)); err != nil || a.String() != "::ffff:10.0.0.1" {
		t.Errorf("%v, %v", a, err)
	}
	for _, bad := range []string{`7`, `null`, `["x"]`} {
		if new(Text).UnmarshalJSON([]byte(bad)) == nil || new(Address).UnmarshalJSON([]byte(bad)) == nil {
			t.Errorf("%s is text", bad)
		}
	}
}
