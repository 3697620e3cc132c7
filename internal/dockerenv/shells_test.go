package dockerenv

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var machine = Settings("tcp://127.18.3.4:2376", "/home/me/.local/share/hyve/machines/dev", "dev")

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestScript(t *testing.T) {
	const certs = "/home/me/.local/share/hyve/machines/dev"
	posix := `export DOCKER_TLS_VERIFY="1"
export DOCKER_HOST="tcp://127.18.3.4:2376"
export DOCKER_CERT_PATH="` + certs + `"
export DOCKER_MACHINE_NAME="dev"
# Run this command to configure your shell: 
# eval $(hyve env dev)
`
	posixUnset := `unset DOCKER_TLS_VERIFY
unset DOCKER_HOST
unset DOCKER_CERT_PATH
unset DOCKER_MACHINE_NAME
# Run this command to configure your shell: 
# eval $(hyve env dev)
`
	tcsh := `setenv DOCKER_TLS_VERIFY "1";
setenv DOCKER_HOST "tcp://127.18.3.4:2376";
setenv DOCKER_CERT_PATH "` + certs + `";
setenv DOCKER_MACHINE_NAME "dev";
: Run this command to configure your shell: 
: eval ` + "`hyve env dev`\n"
	powershell := `$Env:DOCKER_TLS_VERIFY = "1"
$Env:DOCKER_HOST = "tcp://127.18.3.4:2376"
$Env:DOCKER_CERT_PATH = "` + certs + `"
$Env:DOCKER_MACHINE_NAME = "dev"
# Run this command to configure your shell: 
# & hyve env dev | Invoke-Expression
`
	for _, test := range []struct{ shell, set, unset string }{
		{"bash", posix, posixUnset},
		{"zsh", posix, posixUnset},
		{"", posix, posixUnset},
		{"nonesuch", posix, posixUnset},
		{"fish", `set -gx DOCKER_TLS_VERIFY "1";
set -gx DOCKER_HOST "tcp://127.18.3.4:2376";
set -gx DOCKER_CERT_PATH "` + certs + `";
set -gx DOCKER_MACHINE_NAME "dev";
# Run this command to configure your shell: 
# eval (hyve env dev)
`, `set -e DOCKER_TLS_VERIFY;
set -e DOCKER_HOST;
set -e DOCKER_CERT_PATH;
set -e DOCKER_MACHINE_NAME;
# Run this command to configure your shell: 
# eval (hyve env dev)
`},
		{"tcsh", tcsh, `unsetenv DOCKER_TLS_VERIFY;
unsetenv DOCKER_HOST;
unsetenv DOCKER_CERT_PATH;
unsetenv DOCKER_MACHINE_NAME;
: Run this command to configure your shell: 
: eval ` + "`hyve env dev`\n"},
		{"csh", tcsh, ""},
		{"powershell", powershell, `Remove-Item Env:\\DOCKER_TLS_VERIFY
Remove-Item Env:\\DOCKER_HOST
Remove-Item Env:\\DOCKER_CERT_PATH
Remove-Item Env:\\DOCKER_MACHINE_NAME
# Run this command to configure your shell: 
# & hyve env dev | Invoke-Expression
`},
		{"pwsh", powershell, ""},
		{"cmd", `SET DOCKER_TLS_VERIFY=1
SET DOCKER_HOST=tcp://127.18.3.4:2376
SET DOCKER_CERT_PATH=` + certs + `
SET DOCKER_MACHINE_NAME=dev
REM Run this command to configure your shell: 
REM 	@FOR /f "tokens=*" %i IN ('hyve env dev') DO @%i
`, `SET DOCKER_TLS_VERIFY=
SET DOCKER_HOST=
SET DOCKER_CERT_PATH=
SET DOCKER_MACHINE_NAME=
REM Run this command to configure your shell: 
REM 	@FOR /f "tokens=*" %i IN ('hyve env dev') DO @%i
`},
		{"emacs", `(setenv "DOCKER_TLS_VERIFY" "1")
(setenv "DOCKER_HOST" "tcp://127.18.3.4:2376")
(setenv "DOCKER_CERT_PATH" "` + certs + `")
(setenv "DOCKER_MACHINE_NAME" "dev")
;; Run this command to configure your shell: 
;; (with-temp-buffer (shell-command "hyve env dev" (current-buffer)) (eval-buffer))
`, `(setenv "DOCKER_TLS_VERIFY" nil)
(setenv "DOCKER_HOST" nil)
(setenv "DOCKER_CERT_PATH" nil)
(setenv "DOCKER_MACHINE_NAME" nil)
;; Run this command to configure your shell: 
;; (with-temp-buffer (shell-command "hyve env dev" (current-buffer)) (eval-buffer))
`},
	} {
		argv := []string{"hyve", "env", "dev"}
		if got, err := Script(test.shell, machine, argv); got != test.set || err != nil {
			t.Errorf("%s, set: error %v\ngot:\n%s\nwant:\n%s", test.shell, err, got, test.set)
		}
		if got, err := Script(test.shell, Unsettings(), argv); test.unset != "" && (got != test.unset || err != nil) {
			t.Errorf("%s, unset: error %v\ngot:\n%s\nwant:\n%s", test.shell, err, got, test.unset)
		}
	}
}

func TestQuotes(t *testing.T) {
	for _, test := range []struct{ shell, value, want string }{
		{"bash", "a\"b\\c$(x)`y`", "export K=\"a\\\"b\\\\c\\$(x)\\`y\\`\""},
		{"bash", "My  Dir, é", `export K="My "" Dir, é"`},
		{"bash", "\xff", "export K=\"\xff\""},
		{"fish", "a\"b\\c$(x)`y`", "set -gx K \"a\\\"b\\\\c\\$(x)`y`\";"},
		{"tcsh", "a$b!{c,d}", `setenv K "a"$'\044'"b"$'\041'""$'\173'"c,d"$'\175'"";`},
		{"powershell", "a$b`c“d\"", "$Env:K = \"a`$b``c`“d`\"\""},
		{"cmd", "a b%c%", "SET K=a b%c%"},
		{"cmd", "a&b", `SET "K=a&b"`},
		{"emacs", `a"b\c$`, `(setenv "K" "a\"b\\c$")`},
	} {
		got, err := Script(test.shell, []Setting{{Name: "K", Value: test.value}}, []string{"hyve"})
		if got, _, _ = strings.Cut(got, "\n"); got != test.want || err != nil {
			t.Errorf("%s, %q: got %s, error %v, want %s", test.shell, test.value, got, err, test.want)
		}
	}
	for shell, value := range map[string]string{"bash": "a\nrm -rf b", "fish": "\x1b[2J", "powershell": "a\rb", "cmd": `a"&calc`} {
		if got, err := Script(shell, []Setting{{Name: "K", Value: value}}, []string{"hyve"}); err == nil {
			t.Errorf("%s, %q: got %s, want an error", shell, value, got)
		}
	}
}

func TestHint(t *testing.T) {
	for _, test := range []struct {
		argv []string
		want string
	}{
		{[]string{"/opt/my tools/hyve", "env", "--shell=bash", "dev"}, `# eval $("/opt/my tools/hyve" env --shell=bash dev)`},
		{[]string{"hyve", "env", "$(x)\nrm", ""}, `# eval $(hyve env "\$(x)?rm" "")`},
	} {
		got, err := Script("bash", nil, test.argv)
		if _, got, _ = strings.Cut(got, "\n"); got != test.want+"\n" || err != nil {
			t.Errorf("%q: got %s, error %v, want %s", test.argv, got, err, test.want)
		}
	}
}

func TestNoProxy(t *testing.T) {
	const address = "127.0.0.1"
	for _, test := range []struct {
		env      []string
		add, del Setting
	}{
		{nil, Setting{Name: "NO_PROXY", Value: address}, Setting{Name: "NO_PROXY", Unset: true}},
		{[]string{"NO_PROXY", "a,b"}, Setting{Name: "NO_PROXY", Value: "a,b,127.0.0.1"}, Setting{Name: "NO_PROXY", Value: "a,b"}},
		{[]string{"NO_PROXY", "a", "no_proxy", "b"}, Setting{Name: "no_proxy", Value: "b,127.0.0.1"}, Setting{Name: "no_proxy", Value: "b"}},
		{[]string{"no_proxy", "127.0.0.10"}, Setting{Name: "no_proxy", Value: "127.0.0.10,127.0.0.1"}, Setting{Name: "no_proxy", Value: "127.0.0.10"}},
		{[]string{"no_proxy", "a, 127.0.0.1"}, Setting{Name: "no_proxy", Value: "a, 127.0.0.1"}, Setting{Name: "no_proxy", Value: "a"}},
		{[]string{"no_proxy", address}, Setting{Name: "no_proxy", Value: address}, Setting{Name: "no_proxy", Unset: true}},
	} {
		if got := NoProxy(env(test.env...), address); got != test.add {
			t.Errorf("%q: added %+v, want %+v", test.env, got, test.add)
		}
		if got := WithoutNoProxy(env(test.env...), "127.9.9.9", address); got != test.del {
			t.Errorf("%q: removed %+v, want %+v", test.env, got, test.del)
		}
	}
}

func TestDetectShell(t *testing.T) {
	for value, want := range map[string]string{"/bin/bash": "bash", "/opt/homebrew/bin/fish": "fish", "zsh": "zsh", "": ""} {
		if got := DetectShell(env("SHELL", value)); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

// The real shells must take every value for what it is, and run nothing.
func TestRealShells(t *testing.T) {
	values := []string{
		"/plain/path-1.2", "a b", "a  b   c ", " a", "$HOME", "$(touch gone)", "`touch gone`", "${IFS}", `a"b`, "it's", `a\b\\c\`,
		"*", "a *", "[a-z]?", "{a,b}", "~", "a ~", "!!", "a!b", "# no comment", "a;touch gone", "a&b|c>d<e", "%PATH%", "^", "()",
		"é漢字🐳", "'", `"`, "\"; touch gone; \"", "\xff\xfe", "-n", "a=b", "$$", `\n`, `\$(x)`, `\!`, "“x”",
	}
	for _, test := range []struct{ shell, run string }{
		// SCRIPT is a command that prints the script.
		{"bash", `eval $(SCRIPT); env printenv`},
		{"bash", `eval "$(SCRIPT)"; env printenv`},
		{"dash", `eval $(SCRIPT); env printenv`},
		{"zsh", `eval $(SCRIPT); env printenv`},
		{"fish", `eval (SCRIPT); env printenv`},
		{"fish", `SCRIPT | source; env printenv`},
		{"tcsh", "eval `SCRIPT`; env printenv"},
		{"pwsh", "& SCRIPT | Invoke-Expression; & env printenv"},
	} {
		t.Run(test.shell, func(t *testing.T) {
			program, err := exec.LookPath(test.shell)
			if err != nil {
				t.Skip(err)
			}
			args := map[string][]string{"tcsh": {"-f", "-c"}, "pwsh": {"-NoProfile", "-Command"}, "zsh": {"-f", "-c"}, "fish": {"-N", "-c"}}[test.shell]
			if args == nil {
				args = []string{"-c"}
			}
			dir := t.TempDir()
			run := func(settings []Setting) string {
				script, err := Script(test.shell, settings, []string{"hyve", "env", "dev"})
				if err != nil {
					t.Fatal(err)
				}
				write(t, filepath.Join(dir, "script"), script)
				cmd := exec.Command(program, append(args, strings.ReplaceAll(test.run, "SCRIPT", "cat script"))...)
				cmd.Dir = dir
				cmd.Env = append(cmd.Environ(), "HOME="+dir)
				for _, s := range settings {
					cmd.Args[len(cmd.Args)-1] += " " + s.Name
					cmd.Env = append(cmd.Env, s.Name+"=before")
				}
				var stderr strings.Builder
				cmd.Stderr = &stderr
				output, _ := cmd.Output() // printenv fails, silently, where a name is unset
				if stderr.Len() > 0 {
					t.Error(stderr.String())
				}
				return string(output)
			}
			var set, unset []Setting
			for i, value := range values {
				name := fmt.Sprint("K", i)
				set = append(set, Setting{Name: name, Value: value})
				unset = append(unset, Setting{Name: name, Unset: true})
			}
			if got, want := run(set), strings.Join(values, "\n")+"\n"; got != want {
				t.Errorf("got:\n%q\nwant:\n%q", got, want)
			}
			if got := run(unset); got != "" {
				t.Errorf("unset left %q", got)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "gone")); left != nil {
				t.Error("a value was run as a command")
			}
		})
	}
}
