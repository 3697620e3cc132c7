package engine

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"time"
)

// An answer of the engine's is its body and, beside that, its header.
type answer struct {
	io.Reader
	io.Closer
	header textproto.MIMEHeader
}

// ask makes a request and returns the answer. HTTP/1.0 keeps it plain, and ends it
// with the connection, so no HTTP client is needed in PID 1.
func ask(socket, method, path string, bound time.Duration) (*answer, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("asking the engine: %w", err)
	}
	conn.SetDeadline(time.Now().Add(bound))
	body, header, err := exchange(conn, method, path)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("asking the engine for %s %s: %w", method, path, err)
	}
	return &answer{body, conn, header}, nil
}

// exchange sends the request and reads the answer up to its body.
func exchange(conn io.ReadWriter, method, path string) (body io.Reader, header textproto.MIMEHeader, err error) {
	if _, err := io.WriteString(conn, method+" "+path+" HTTP/1.0\r\nHost: docker\r\n\r\n"); err != nil {
		return nil, nil, err
	}
	r := bufio.NewReader(conn)
	lines := textproto.NewReader(r)
	status, err := lines.ReadLine()
	if err != nil {
		return nil, nil, err
	}
	// Not modified: a container is already as it is asked to be.
	if fields := strings.Fields(status); len(fields) < 2 || fields[1][0] != '2' && fields[1] != "304" {
		return nil, nil, fmt.Errorf("it answered %q", status)
	}
	header, err = lines.ReadMIMEHeader()
	return r, header, err
}
