package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/machine"
)

// dirSize is what the files in a directory take.
func dirSize(t *testing.T, dir string) (size int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return size
}

// A flood of whatever a guest writes on its console stays within bounds, in the log and
// in memory, and the log says what is missing. The end of it is there for the cause.
func TestConsoleFlood(t *testing.T) {
	for name, chunk := range map[string]string{
		"lines":    strings.Repeat("0123456789abcdef\n", 2000),
		"no lines": strings.Repeat("0123456789abcdef", 2000),
		"empty":    strings.Repeat("\n", 32000),
		"zeroes":   strings.Repeat("\x00", 32000),
	} {
		t.Run(name, func(t *testing.T) {
			dir := machine.Dir(t.TempDir())
			if err := os.Mkdir(dir.Logs(), 0o700); err != nil {
				t.Fatal(err)
			}
			log, err := openLog(dir.Log("console"), false, nil)
			if err != nil {
				t.Fatal(err)
			}
			var c console
			c.each, c.log = log.line, log
			for range 4000 { // 128 MB
				c.Write([]byte(chunk))
			}
			c.Write([]byte("\nKernel panic - not syncing\nend"))
			if got := lastWords(c.last()); got != "kernel panic - not syncing" {
				t.Errorf("the cause is %q", got)
			}
			if len(c.tail) > 3*consoleTail || cap(c.partial) > 2*maxLogLine {
				t.Errorf("%d and %d bytes are kept", len(c.tail), cap(c.partial))
			}
			c.flush()
			log.close()
			if size := dirSize(t, dir.Logs()); size > 2*machine.MaxLog {
				t.Errorf("the log takes %d bytes", size)
			}
			if name == "no lines" || name == "zeroes" {
				return // one long line, cut
			}
			data, err := os.ReadFile(dir.Log("console"))
			if err != nil || !bytes.Contains(data, []byte(" lines dropped: they came faster than 128KiB a second\n")) {
				t.Errorf("what is missing is not said, %v", err)
			}
		})
	}
}

func TestLogLinesAreCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	log, err := openLog(path, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := lineWriter{each: log.line}
	fmt.Fprintf(&w, "short\r\n%s\nun", strings.Repeat("x", maxLogLine+1000))
	fmt.Fprint(&w, "ended")
	w.flush()
	w.flush()
	log.line(strings.Repeat("y", maxLogLine+7))
	log.close()
	data, err := os.ReadFile(path)
	lines := strings.Split(string(data), "\n")
	if err != nil || len(lines) != 5 || lines[0] != "short" || lines[2] != "unended" ||
		!strings.HasSuffix(lines[1], "x… (1000 bytes cut)") || !strings.HasSuffix(lines[3], "y… (7 bytes cut)") {
		t.Errorf("%.200q, %v", lines, err)
	}
}

// What the runtime says of the supervisor's end is in its log, also in one that has just
// become new.
func TestStderrFollowsTheLog(t *testing.T) {
	if path := os.Getenv("HYVE_TEST_LOG"); path != "" {
		log, err := openLog(path, false, becomeStderr)
		if err != nil {
			t.Fatal(err)
		}
		line := strings.Repeat("x", 4000)
		for range machine.MaxLog/4000 + 10 {
			log.budget = bucket{rate: logRate, burst: logBurst} // full
			log.line(line)
		}
		panic("the end")
	}
	path := filepath.Join(t.TempDir(), "x.log")
	cmd := exec.Command(os.Args[0], "-test.run=^TestStderrFollowsTheLog$")
	cmd.Env = append(os.Environ(), "HYVE_TEST_LOG="+path)
	if err := cmd.Run(); err == nil {
		t.Fatal("it lives")
	}
	data, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(data, []byte("panic: the end")) || len(data) > machine.MaxLog/2 {
		t.Errorf("the log has %d bytes, %v", len(data), err)
	}
}
