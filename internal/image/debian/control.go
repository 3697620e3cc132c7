package debian

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxLine bounds one line of a control file, in bytes.
const maxLine = 4 << 20

// A Paragraph is one stanza of a control file (deb-control(5)): values by field
// name in lower case. Continuation lines are joined with newlines, without
// their leading blank.
type Paragraph map[string]string

// Get returns a field's value, whatever the case of its name.
func (p Paragraph) Get(name string) string { return p[strings.ToLower(name)] }

// A ControlReader reads the paragraphs of a control file one by one.
type ControlReader struct {
	s    *bufio.Scanner
	line int
	// keep says which fields (lower case) to store; nil stores all.
	keep map[string]bool
}

// NewControlReader returns a reader of all paragraphs in r. With fields given,
// only these are stored, which makes reading a large index cheap.
func NewControlReader(r io.Reader, fields ...string) *ControlReader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), maxLine)
	c := &ControlReader{s: s}
	if len(fields) > 0 {
		c.keep = make(map[string]bool, len(fields))
		for _, f := range fields {
			c.keep[strings.ToLower(f)] = true
		}
	}
	return c
}

// Next returns the next paragraph, or io.EOF after the last one.
func (c *ControlReader) Next() (Paragraph, error) {
	p := Paragraph{}
	field, started := "", false // field is "" while its value is not wanted
	for c.s.Scan() {
		c.line++
		line := c.s.Bytes()
		trimmed := bytes.TrimRight(line, " \t\r")
		switch {
		case len(trimmed) == 0:
			if started {
				return p, nil
			}
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if !started {
				return nil, fmt.Errorf("line %d continues no field", c.line)
			}
			if field != "" {
				p[field] += "\n" + string(trimmed[1:])
			}
		default:
			name, value, ok := bytes.Cut(trimmed, []byte{':'})
			if !ok || len(name) == 0 || bytes.ContainsAny(name, " \t") {
				return nil, fmt.Errorf("line %d is no field", c.line)
			}
			started = true
			field = strings.ToLower(string(name))
			if c.keep != nil && !c.keep[field] {
				field = ""
				continue
			}
			if _, twice := p[field]; twice {
				return nil, fmt.Errorf("line %d repeats field %s", c.line, name)
			}
			p[field] = string(bytes.TrimSpace(value))
		}
	}
	if err := c.s.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return nil, fmt.Errorf("line %d is longer than %d bytes", c.line+1, maxLine)
		}
		return nil, err
	}
	if !started {
		return nil, io.EOF
	}
	return p, nil
}
