package sshclient

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseLocation(t *testing.T) {
	for arg, want := range map[string]Location{
		"file":           {Path: "file"},
		"/a:b":           {Path: "/a:b"},
		"./a:b":          {Path: "./a:b"},
		"m1:/x":          {Machine: "m1", Path: "/x"},
		"m1:":            {Machine: "m1"},
		"root@m1:/x:y":   {User: "root", Machine: "m1", Path: "/x:y"},
		"localhost:a:b":  {Path: "a:b"},
		"x@localhost:/a": {Path: "/a"},
	} {
		if got, err := ParseLocation(arg); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", arg, got, err, want)
		}
	}
	for _, arg := range []string{":x", "a@:x", "-oProxyCommand=x@m1:y", "a b@m1:x", "@m1:x"} {
		if got, err := ParseLocation(arg); err == nil {
			t.Errorf("%s: %+v, want an error", arg, got)
		}
	}
}

// Whatever the arguments are, none becomes a flag, and a machine's end is one of the
// two hosts of the configuration.
func FuzzCopyArguments(f *testing.F) {
	for _, seed := range []string{"file", "-r", "m1:/x", "root@m1:-x", "localhost:a", "a@b:c", ":"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		location, err := ParseLocation(arg)
		if err != nil {
			return
		}
		hosts := map[string]Access{}
		got := End{Location: location, Access: Access{User: User}}.argument("from", hosts)
		if strings.HasPrefix(got, "-") {
			t.Errorf("%q became the flag %q", arg, got)
		}
		if location.Machine != "" && (!strings.HasPrefix(got, "from:") || len(hosts) != 1) {
			t.Errorf("%q became %q with %v", arg, got, hosts)
		}
		if user := hosts["from"].User; location.Machine != "" && !userName.MatchString(user) {
			t.Errorf("%q has the user %q", arg, user)
		}
	})
}

// The configuration is taken as it is meant by the real ssh, whatever the paths are.
func TestConfigForSSH(t *testing.T) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(t.TempDir(), `mit "Leer zeichen" %h`)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	access := Access{User: "root", Host: "127.18.0.1", Port: "2222", Alias: "m1", Key: filepath.Join(dir, "key"), KnownHosts: filepath.Join(dir, "known")}
	other := access
	other.Alias, other.Port = "m2", "1"
	file := filepath.Join(dir, "config")
	if err := os.WriteFile(file, []byte(config(map[string]Access{"from": access, "to": other})), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(ssh, "-G", "-F", file, "from").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(string(out), "\n")
	for _, want := range []string{"user root", "hostname 127.18.0.1", "port 2222", "hostkeyalias m1", "stricthostkeychecking true", "identitiesonly yes"} {
		if !slices.Contains(lines, want) {
			t.Errorf("ssh has not understood %q: %s", want, out)
		}
	}
	// It prints paths as they were written or as they are meant, by its version.
	for _, name := range []string{"identityfile ", "userknownhostsfile "} {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, name) })
		if i < 0 || !strings.Contains(lines[i], "Leer zeichen") {
			t.Errorf("ssh has not understood the path of %s: %s", name, out)
		}
	}
}

func TestCopyCommand(t *testing.T) {
	t.Setenv("PATH", "/nowhere")
	if _, _, err := CopyCommand(End{}, End{}, CopyOptions{}); !errors.Is(err, ErrNoSCP) {
		t.Errorf("without scp: %v", err)
	}
	if _, _, err := CopyCommand(End{}, End{}, CopyOptions{Delta: true}); !errors.Is(err, ErrNoRsync) {
		t.Errorf("without rsync: %v", err)
	}
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	for _, name := range []string{"scp", "rsync"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	from := End{Location{Machine: "m1", Path: "/x"}, Access{Port: "1"}}
	to := End{Location{User: "root", Machine: "m2", Path: "y"}, Access{Port: "2"}}
	for _, test := range []struct {
		options CopyOptions
		want    string
	}{
		{CopyOptions{}, "-3 -F FILE -- from:/x to:y"},
		{CopyOptions{Recursive: true, Quiet: true}, "-3 -F FILE -r -q -- from:/x to:y"},
		{CopyOptions{Delta: true}, `-e ssh -F "FILE" --progress -- from:/x to:y`},
		{CopyOptions{Delta: true, Quiet: true, Recursive: true}, `-e ssh -F "FILE" -r -q -- from:/x to:y`},
	} {
		cmd, cleanup, err := CopyCommand(from, to, test.options)
		if err != nil {
			t.Fatal(err)
		}
		args := strings.Join(cmd.Args[1:], " ")
		file := args[strings.Index(args, "/"):strings.Index(args, "ssh_config")] + "ssh_config"
		if got := strings.ReplaceAll(args, file, "FILE"); got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		text, _ := os.ReadFile(file)
		for _, want := range []string{"Port 1", "Port 2", "User root"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%q is missing in %s", want, text)
			}
		}
		cleanup()
		if _, err := os.Stat(filepath.Dir(file)); err == nil {
			t.Error("the configuration stays")
		}
	}
}
