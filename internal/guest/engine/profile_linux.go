package engine

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/guest/process"
)

// profilePath is the file by which boot2docker's users, and docker-machine when
// it provisions, configure the engine: shell, to be sourced.
const profilePath = "/var/lib/boot2docker/profile"

// A profile is what it sets. DOCKER_TLS and DOCKER_REMOTE are not looked at: the engine
// is behind mutual TLS in any case.
type profile struct {
	options []string // EXTRA_ARGS, DOCKER_STORAGE and DOCKER_DIR, as guestapi.Engine's
	env     []string // what it exports
	port    uint16   // of DOCKER_HOST, where clients look for the engine, too; 0 if none
	// PEM of CACERT, SERVERCERT and SERVERKEY, which are paths; all or none.
	ca, cert, key string
}

// profileScript prints, each ended by a zero byte, the words of EXTRA_ARGS, a
// line with an end mark, the values of profileFields and the exported variables.
const profileScript = `. "$1" >/dev/null || exit
for word in $EXTRA_ARGS; do printf '%s\0' "$word"; done
printf '%s\0' "
" "$CACERT" "$SERVERCERT" "$SERVERKEY" "$DOCKER_HOST" "$DOCKER_STORAGE" "$DOCKER_DIR"
exec env -0`

// profileFields counts the variables that profileScript prints by their names.
const profileFields = 6

// readProfile sources the profile. One that is not there sets nothing.
func readProfile(r *process.Reaper, path string) (profile, error) {
	var p profile
	if _, err := os.Lstat(path); err != nil {
		return p, nil
	}
	out, err := r.Run([]string{process.Path}, "/bin/sh", "-c", profileScript, "sh", path)
	if err != nil {
		return p, fmt.Errorf("reading %s: %w", path, err)
	}
	words, rest, ok := strings.Cut("\x00"+out, "\x00\n\x00")
	fields := strings.Split(rest, "\x00")
	if !ok || len(fields) < profileFields {
		return p, fmt.Errorf("reading %s: it prints on its own: %q", path, out[:min(len(out), 100)])
	}
	p.options = flagWords(strings.FieldsFunc(words, func(c rune) bool { return c == 0 }))
	p.port = tcpPort(fields[3])
	// aufs was boot2docker's own choice once; no kernel of today has it.
	if storage := fields[4]; storage != "" && storage != "auto" && storage != "aufs" {
		p.options = append(p.options, "storage-driver="+storage)
	}
	if dir := fields[5]; dir != "" {
		p.options = append(p.options, "data-root="+dir)
	}
	for _, variable := range fields[profileFields:] {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "", "PATH", "PWD", "OLDPWD", "SHLVL", "_":
		default:
			p.env = append(p.env, variable)
		}
	}
	return p, p.readCertificates(fields[0], fields[1], fields[2])
}

func (p *profile) readCertificates(ca, cert, key string) error {
	var pem [3]string
	for i, path := range []string{ca, cert, key} {
		b, err := os.ReadFile(path)
		if path == "" || errors.Is(err, os.ErrNotExist) {
			return nil // boot2docker made its own then; a hyve machine has its identity's
		}
		if err != nil {
			return fmt.Errorf("reading the profile's certificates: %w", err)
		}
		pem[i] = string(b)
	}
	p.ca, p.cert, p.key = pem[0], pem[1], pem[2]
	return nil
}

var tcpHost = regexp.MustCompile(`tcp://[^ ]*:([0-9]+)`)

// tcpPort returns the port of the first TCP address among dockerd's flags, 0 if there
// is none.
func tcpPort(flags string) uint16 {
	match := tcpHost.FindStringSubmatch(flags)
	if match == nil {
		return 0
	}
	port, err := strconv.ParseUint(match[1], 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}

// flagWords joins the words of a command line to options, "name=value" or
// "name". A word that does not begin with a hyphen is the value of the one
// before it.
func flagWords(words []string) []string {
	var options []string
	for _, word := range words {
		last := len(options) - 1
		switch {
		case strings.HasPrefix(word, "-"):
			options = append(options, strings.TrimLeft(word, "-"))
		case last >= 0 && !strings.Contains(options[last], "="):
			options[last] += "=" + word
		}
	}
	return options
}
