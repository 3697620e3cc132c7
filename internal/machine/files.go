package machine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/private"
)

// maxSocketPath is the longest path, in bytes, that a unix socket may have:
// sun_path holds 104 bytes on macOS and 108 on Linux, a zero among them.
const maxSocketPath = 103

// Home is hyve's data directory; every path below it is named in this file.
type Home string

// DefaultHome is $HYVE_HOME, else the platform's custom: on macOS
// ~/Library/Application Support/hyve, elsewhere $XDG_DATA_HOME/hyve or
// ~/.local/share/hyve.
// It is refused where other users could change what is in it.
func DefaultHome(getenv func(string) string) (Home, error) {
	home, err := namedHome(getenv)
	if err != nil {
		return "", err
	}
	return home, home.check()
}

// check refuses a directory that is not this user's alone.
func (h Home) check() error {
	// One that cannot even be looked at is for whoever uses it to report.
	if err := private.Tree(string(h)); err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("using the data directory %s: %w", h, err)
	}
	return nil
}

func namedHome(getenv func(string) string) (Home, error) {
	if dir := getenv("HYVE_HOME"); dir != "" {
		abs, err := filepath.Abs(dir)
		return Home(abs), err
	}
	if dir := getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) && runtime.GOOS != "darwin" {
		return Home(filepath.Join(dir, "hyve")), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", hint.With(
			errors.New("finding the data directory: HOME is not set"),
			"set HYVE_HOME to the directory where hyve may keep its machines",
		)
	}
	if runtime.GOOS == "darwin" {
		return Home(filepath.Join(home, "Library", "Application Support", "hyve")), nil
	}
	return Home(filepath.Join(home, ".local", "share", "hyve")), nil
}

const usableHome = "set HYVE_HOME to a directory that you may write"

// Make creates the data directory and tightens it to its owner.
func (h Home) Make() error {
	for _, dir := range []string{string(h), h.Machines(), h.CacheDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return hint.With(fmt.Errorf("making the data directory: %w", err), usableHome)
		}
	}
	return nil
}

// CheckMake returns why Make would not succeed, nil if it would. It makes nothing.
func (h Home) CheckMake() error {
	for _, dir := range []string{string(h), h.Machines(), h.CacheDir(), h.PKIDir(), h.ImagesDir(), h.Templates()} {
		if err := writable(dir); err != nil {
			return hint.With(fmt.Errorf("making the data directory: %w", err), usableHome)
		}
	}
	return nil
}

// writable returns why nothing can be made in a directory, nor the directory itself if it
// is not there.
func writable(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if _, link := os.Lstat(dir); link == nil { // to nowhere
			return err
		}
		return writable(filepath.Dir(dir))
	}
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return err
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return nil
}

// PKIDir holds the installation's CA, client certificate and SSH key.
func (h Home) PKIDir() string { return filepath.Join(string(h), "pki") }

// ImagesDir holds the guest images, shared by all machines.
func (h Home) ImagesDir() string { return filepath.Join(string(h), "images") }

// Templates holds frozen machines of which new ones are made.
func (h Home) Templates() string { return filepath.Join(string(h), "templates") }

// Template is the directory of one for machines of an image, of which key is the rest that
// they have in common.
func (h Home) Template(image, key string) string {
	return filepath.Join(h.Templates(), imagePrefix(image)+key)
}

// Trial is the file of what came of thawing machines of an image, with the hardware of
// which key is.
func (h Home) Trial(image, key string) string { return h.Template(image, key) + trialSuffix }

// trialSuffix is of no template's name.
const trialSuffix = ".json"

// Trials are the files of all of them.
func (h Home) Trials() ([]string, error) {
	return bounded.Glob(h.Templates(), "*"+trialSuffix)
}

// OfImage are the templates and trials of an image.
func (h Home) OfImage(image string) ([]string, error) {
	return bounded.Glob(h.Templates(), imagePrefix(image)+"*")
}

// imagePrefix begins the names of what is of an image.
func imagePrefix(digest string) string {
	_, digits, _ := strings.Cut(digest, ":")
	return digits[:min(len(digits), 12)] + "-"
}

// CacheDir holds what can be had again: packages, verdicts of probes.
func (h Home) CacheDir() string { return filepath.Join(string(h), "cache") }

// Machines holds one directory per machine.
func (h Home) Machines() string { return filepath.Join(string(h), "machines") }

// A Dir is one machine's directory.
type Dir string

// Dir returns the directory of the machine of that name.
func (h Home) Dir(name string) Dir { return Dir(filepath.Join(h.Machines(), name)) }

// Spec is the machine's description; the machine exists when it does.
func (d Dir) Spec() string { return filepath.Join(string(d), "machine.json") }

// Lock is locked by the supervisor and the hypervisor while they live.
func (d Dir) Lock() string { return filepath.Join(string(d), "lock") }

// owner is locked by the process that a throw-away machine belongs to.
func (d Dir) owner() string { return filepath.Join(string(d), "owner") }

// Disk is the data disk, raw and sparse.
func (d Dir) Disk() string { return filepath.Join(string(d), "disk.img") }

// Frozen is the directory of the machine's frozen state, if it has one.
func (d Dir) Frozen() string { return filepath.Join(string(d), "frozen") }

// Failure says why the machine ended by itself the last time; it is there only
// if it did. It is history for people: nothing is decided by it.
func (d Dir) Failure() string { return filepath.Join(string(d), "failure.json") }

// Migrations holds the journals of what has been copied into the machine.
func (d Dir) Migrations() string { return filepath.Join(string(d), "migrations") }

// ServerDir holds what only the guest shows: its certificate and host key. It
// is apart from the machine's directory, which docker clients read.
func (d Dir) ServerDir() string { return filepath.Join(string(d), "server") }

// HostKey is the SSH key by which the guest is known.
func (d Dir) HostKey() string { return filepath.Join(d.ServerDir(), "ssh_host_ed25519_key") }

// KnownHosts is the host key for the system's SSH clients, see known_hosts in sshd(8).
func (d Dir) KnownHosts() string { return filepath.Join(string(d), "known_hosts") }

// Logs returns the directory of the machine's logs.
func (d Dir) Logs() string { return filepath.Join(string(d), "logs") }

// Log returns the log of one service, "supervisor", "console" or one of the
// guest's.
func (d Dir) Log(service string) string { return filepath.Join(d.Logs(), service+".log") }

// Sockets, each in RunDir.
func (d Dir) DockerSocket() string  { return d.socket("docker.sock") }  // Docker's API
func (d Dir) ControlSocket() string { return d.socket("control.sock") } // words <-> supervisor
func (d Dir) SSHSocket() string     { return d.socket("ssh.sock") }     // the guest's SSH server
func (d Dir) NetworkSocket() string { return d.socket("net.sock") }     // hypervisor -> network
func (d Dir) GuestSocket() string   { return d.socket("guest.sock") }   // hypervisor -> guest's channel

func (d Dir) socket(name string) string { return filepath.Join(d.RunDir(), name) }

// RunDir holds the sockets: "run" in the machine's directory or, where a socket's path
// would be longer than the kernel takes, or such as docker does not, the private directory to which a link of that name
// leads. Only the user can make that link, so nobody else can say where it leads.
func (d Dir) RunDir() string {
	run := filepath.Join(string(d), "run")
	if fitsSocket(run) {
		return run
	}
	if target, err := os.Readlink(run); err == nil && private.Dir(target) {
		return target
	}
	if old := d.oldRunDir(); private.Dir(old) && private.Dir(filepath.Dir(old)) {
		return old
	}
	return run
}

// oldRunDir is where an earlier hyve, whose machine may still run, had long sockets. Anybody
// may have made it.
func (d Dir) oldRunDir() string {
	sum := sha256.Sum256([]byte(d))
	return filepath.Join(fmt.Sprintf("/tmp/hyve-%d", os.Getuid()), hex.EncodeToString(sum[:8]))
}

// fitsSocket tells whether sockets can be in a directory: their paths have to be short, and
// without a percent sign, which docker's client takes for the beginning of a code in a URL.
func fitsSocket(dir string) bool {
	const longest = "control.sock"
	return len(dir)+1+len(longest) <= maxSocketPath && !strings.Contains(dir, "%")
}

// MakeRunDir creates RunDir, and refuses one that somebody else could use. The machine's
// lock is held.
func (d Dir) MakeRunDir() error {
	run := filepath.Join(string(d), "run")
	if err := os.Mkdir(string(d), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making the directory of the sockets: %w", err)
	}
	if !fitsSocket(run) {
		return d.makeShortRunDir(run)
	}
	if err := os.Mkdir(run, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making the directory of the sockets: %w", err)
	}
	for _, dir := range []string{string(d), run} {
		if !private.Dir(dir) {
			return fmt.Errorf("making the directory of the sockets: %s is not a private directory of this user", dir)
		}
	}
	return nil
}

// makeShortRunDir makes a directory with a short path and a name of chance, and the link
// to it; one that is still there and private is kept. It is where nobody else can make
// one: docker's contexts go on naming it while it is gone.
func (d Dir) makeShortRunDir(link string) error {
	if !private.Dir(string(d)) {
		return fmt.Errorf("making the directory of the sockets: %s is not a private directory of this user", d)
	}
	if target, err := os.Readlink(link); err == nil && private.Dir(target) {
		return nil
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("making the directory of the sockets: %w", err)
	}
	dir, err := shortDir()
	if err == nil {
		err = os.Symlink(dir, link)
	}
	if err != nil {
		return fmt.Errorf("making the directory of the sockets: %w", err)
	}
	return nil
}

// shortDir makes a new directory in the user's cache or, where that is long or open, too,
// in the directory for temporary files.
func shortDir() (string, error) {
	if cache, err := os.UserCacheDir(); err == nil {
		cache = filepath.Join(cache, "hyve")
		if fitsSocket(filepath.Join(cache, "run-0123456789")) && private.Tree(cache) == nil && os.MkdirAll(cache, 0o700) == nil {
			if dir, err := os.MkdirTemp(cache, "run-"); err == nil {
				return dir, nil
			}
		}
	}
	dir, err := os.MkdirTemp("/tmp", "hyve-")
	return dir, err
}
