package guestapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what the guest says, in bytes. What is longer is cut where it is made or
// parsed, and ends with an ellipsis: that somebody said much is no reason not to listen.
const (
	MaxText  = 256
	MaxProse = 4 << 10
	MaxLine  = 8 << 10
)

// Text is one line for people: at most MaxText bytes of UTF-8 with nothing in it that
// would do something to a terminal. What would is a question mark.
type Text struct{ s string }

// NewText makes a Text of anything.
func NewText(s string) Text {
	return Text{bound(s, MaxText, func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return '?'
	})}
}

// Textf is NewText of a format.
func Textf(format string, args ...any) Text { return NewText(fmt.Sprintf(format, args...)) }

func (t Text) String() string { return t.s }

// Prose is like Text, of several lines: at most MaxProse bytes.
type Prose struct{ s string }

// NewProse makes a Prose of anything.
func NewProse(s string) Prose {
	return Prose{bound(s, MaxProse, func(r rune) rune {
		if unicode.IsGraphic(r) || r == '\n' {
			return r
		}
		return '?'
	})}
}

func (p Prose) String() string { return p.s }

// Line is a line of a log as a program wrote it, which may have coloured it: at most
// MaxLine bytes of UTF-8 without line breaks. It is no text for a terminal.
type Line struct{ s string }

// NewLine makes a Line of anything.
func NewLine(s string) Line {
	return Line{bound(s, MaxLine, func(r rune) rune {
		if r == '\n' || r == '\r' || r == 0 {
			return '?'
		}
		return r
	})}
}

func (l Line) String() string { return l.s }

const ellipsis = "…"

// bound makes s valid UTF-8 of at most limit bytes, each rune as allow wants it.
func bound(s string, limit int, allow func(rune) rune) string {
	cut := len(s) > limit
	if cut {
		s = s[:limit] // nothing below looks at what may be a megabyte
	}
	s = strings.TrimSpace(strings.Map(allow, strings.ToValidUTF8(s, "?")))
	if !cut && len(s) <= limit {
		return s
	}
	s = s[:min(len(s), limit-len(ellipsis))]
	for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) {
		s = s[:len(s)-1]
	}
	return s + ellipsis
}

// Address is an IP address without a zone, which would be text of any length. The zero
// Address is none.
type Address struct{ ip netip.Addr }

// ParseAddress reads an address; an empty one is none.
func ParseAddress(s string) (Address, error) {
	if s == "" {
		return Address{}, nil
	}
	if len(s) > 45 { // ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255
		return Address{}, errors.New("reading an address: it is too long")
	}
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return Address{}, fmt.Errorf("reading an address: %w", err)
	}
	if ip.Zone() != "" {
		return Address{}, errors.New("reading an address: it has a zone")
	}
	return Address{ip}, nil
}

func (a Address) String() string {
	if !a.ip.IsValid() {
		return ""
	}
	return a.ip.String()
}

// Each is a string in JSON.

func (t Text) MarshalJSON() ([]byte, error)    { return json.Marshal(t.s) }
func (p Prose) MarshalJSON() ([]byte, error)   { return json.Marshal(p.s) }
func (l Line) MarshalJSON() ([]byte, error)    { return json.Marshal(l.s) }
func (a Address) MarshalJSON() ([]byte, error) { return json.Marshal(a.String()) }

func (t *Text) UnmarshalJSON(data []byte) error  { return decode(data, t, NewText) }
func (p *Prose) UnmarshalJSON(data []byte) error { return decode(data, p, NewProse) }
func (l *Line) UnmarshalJSON(data []byte) error  { return decode(data, l, NewLine) }

// UnmarshalJSON refuses what ParseAddress does.
func (a *Address) UnmarshalJSON(data []byte) (err error) {
	s, err := decodeString(data)
	if err == nil {
		*a, err = ParseAddress(s)
	}
	return err
}

func decode[T any](data []byte, into *T, make func(string) T) error {
	s, err := decodeString(data)
	if err == nil {
		*into = make(s)
	}
	return err
}

var errNoString = errors.New("decoding text: it is not a string")

func decodeString(data []byte) (s string, err error) {
	if !bytes.HasPrefix(data, []byte{'"'}) {
		return "", errNoString
	}
	return s, json.Unmarshal(data, &s)
}
