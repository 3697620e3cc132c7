package guestapi

import (
	"bytes"
	"io"
	"strings"
	"testing"
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
	w := NewWriter[Event](&stream)
	if err := w.Write(Event{Log: &Log{Line: strings.Repeat("x", MaxMessage)}}); err == nil || stream.Len() > 0 {
		t.Errorf("error %v, %d bytes written", err, stream.Len())
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("{\"log\":{\"service\":\"init\",\"line\":\"x\"}}\n"))
	f.Add([]byte("\n\n{}\n{\"uptime\":-1}\nnull\n[]\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader[Event](bytes.NewReader(stream))
		for range bytes.Count(stream, []byte{'\n'}) + 1 {
			if _, err := r.Read(); err != nil {
				return
			}
		}
		t.Error("more messages than lines")
	})
}
