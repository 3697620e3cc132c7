package build

import (
	"bytes"
	"fmt"
)

// A message is one of a program's, and what it is to say instead.
type message struct{ program, says, shall string }

// messages are crun's words about commands that cannot be started, as printf formats, and
// runc's. docker's client tells by runc's which exit status `docker run` has: 127 where
// there is no such command, 126 where it cannot be executed, and else 125, as if the
// engine were at fault (docker/cli, cli/command/container/run.go). crun adds the
// system's own words, in which the client does not find what it looks for.
//
// They are replaced within the program, as a wrapper would cost each container a tenth
// of a second under emulation. So what it shall say is no longer than what it says, and has
// the same arguments.
var messages = []message{
	{"usr/bin/crun", "executable file `%s` not found%s", `"%s" executable file not found%s`},
	{"usr/bin/crun", "the path `%s` exists but it is not executable", `exec: "%s": permission denied`},
	{"usr/bin/crun", "the path `%s` is not a regular file", `exec: "%s": permission denied`},
}

// reword replaces messages in the tree's programs. unknown are those that a program does
// not have, of which another version may say something else.
func reword(t *tree) (unknown []error, err error) {
	for _, m := range messages {
		if t.get(m.program) == nil {
			continue
		}
		data, err := t.read(m.program)
		if err != nil {
			return nil, err
		}
		// Strings of C end with a zero byte, and follow on another's.
		old := "\x00" + m.says + "\x00"
		if bytes.Count(data, []byte(old)) != 1 {
			unknown = append(unknown, fmt.Errorf("%s does not say %q any more; docker run will end with status 125 where it did with 126 or 127", m.program, m.says))
			continue
		}
		shall := make([]byte, len(old))
		copy(shall[1:], m.shall)
		data = bytes.Replace(data, []byte(old), shall, 1)
		if err := t.put(m.program, t.get(m.program).with(data)); err != nil {
			return nil, err
		}
	}
	return unknown, nil
}

// with returns the node with another content.
func (n *node) with(content []byte) *node {
	other := *n
	other.data, other.size = bytes.NewReader(content), int64(len(content))
	return &other
}
