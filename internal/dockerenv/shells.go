// Package dockerenv gives docker clients what they need to find a machine's
// engine: variables for a shell, an entry in the docker CLI's context store,
// and for hyve itself a sign of life from the engine.
package dockerenv

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// Variables that point a docker client to a machine, in the order in which
// docker-machine prints them.
var names = [...]string{"DOCKER_TLS_VERIFY", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_MACHINE_NAME"}

// A Setting is one variable to set, or to remove.
type Setting struct {
	Name, Value string
	Unset       bool
}

// Settings points a shell to the machine: host is "tcp://ADDRESS:PORT", certs
// the directory that holds ca.pem, cert.pem and key.pem.
func Settings(host, certs, machine string) []Setting {
	var settings []Setting
	for i, value := range []string{"1", host, certs, machine} {
		settings = append(settings, Setting{Name: names[i], Value: value})
	}
	return settings
}

// Unsettings takes back what Settings did.
func Unsettings() []Setting {
	var settings []Setting
	for _, name := range names {
		settings = append(settings, Setting{Name: name, Unset: true})
	}
	return settings
}

// NoProxy adds an address to the hosts that are reached without a proxy: to
// no_proxy if that is set, else to NO_PROXY.
func NoProxy(getenv func(string) string, address string) Setting {
	name, hosts := noProxy(getenv)
	if !slices.ContainsFunc(hosts, oneOf(address)) {
		hosts = append(hosts, address)
	}
	return Setting{Name: name, Value: strings.Join(hosts, ",")}
}

// WithoutNoProxy takes addresses off the hosts that are reached without a
// proxy; the user's own stay.
func WithoutNoProxy(getenv func(string) string, addresses ...string) Setting {
	name, hosts := noProxy(getenv)
	hosts = slices.DeleteFunc(hosts, oneOf(addresses...))
	return Setting{Name: name, Value: strings.Join(hosts, ","), Unset: len(hosts) == 0}
}

func noProxy(getenv func(string) string) (name string, hosts []string) {
	name = "no_proxy"
	if getenv(name) == "" {
		name = "NO_PROXY"
	}
	if value := getenv(name); value != "" {
		hosts = strings.Split(value, ",")
	}
	return name, hosts
}

func oneOf(addresses ...string) func(host string) bool {
	return func(host string) bool { return slices.Contains(addresses, strings.TrimSpace(host)) }
}

// DetectShell returns the name of the user's shell, the base name of $SHELL. It
// is empty where SHELL is not set; [Script] then writes for a POSIX shell.
func DetectShell(getenv func(string) string) string {
	if shell := getenv("SHELL"); shell != "" {
		return path.Base(shell)
	}
	return ""
}

// Script returns the lines that make a shell take the settings, and a comment
// that says how to run them; argv is the command line as typed. The lines are
// docker-machine's, byte for byte, but values with special characters, which it
// prints as they are, are quoted so that the shell takes them for what they
// are. Any shell that it has no lines for is taken for a POSIX one.
func Script(shell string, settings []Setting, argv []string) (string, error) {
	if alias, ok := aliases[shell]; ok {
		shell = alias
	}
	d, ok := dialects[shell]
	if !ok {
		d = posix
	}
	var script strings.Builder
	for _, s := range settings {
		if s.Unset {
			fmt.Fprintf(&script, d.unset, s.Name)
			continue
		}
		if strings.ContainsFunc(s.Value, unicode.IsControl) {
			return "", fmt.Errorf("writing %s for the shell: %q holds a control character", s.Name, s.Value)
		}
		if shell != "cmd" {
			fmt.Fprintf(&script, d.set, s.Name, d.quote(s.Value))
			continue
		}
		if strings.Contains(s.Value, `"`) {
			return "", fmt.Errorf("writing %s for cmd: %q holds a quote", s.Name, s.Value)
		}
		assignment := s.Name + "=" + s.Value
		if strings.ContainsAny(s.Value, "&|<>^") {
			assignment = d.quote(assignment)
		}
		fmt.Fprintf(&script, d.set, assignment)
	}
	fmt.Fprintf(&script, "%s Run this command to configure your shell: \n%s ", d.comment, d.comment)
	fmt.Fprintf(&script, d.hint+"\n", d.commandLine(argv))
	return script.String(), nil
}

// Flags are a docker client's flags for what Settings says, as docker-machine prints them,
// one a line.
func Flags(host, certs string) []string {
	return []string{
		"--tlsverify",
		fmt.Sprintf("--tlscacert=%q", filepath.Join(certs, "ca.pem")),
		fmt.Sprintf("--tlscert=%q", filepath.Join(certs, "cert.pem")),
		fmt.Sprintf("--tlskey=%q", filepath.Join(certs, "key.pem")),
		"-H=" + host,
	}
}
