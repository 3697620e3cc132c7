package guest

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// resolvConf is how names are resolved: by the gateway, and where the host looks for them.
func resolvConf(gateway string, s guestapi.Surroundings) string {
	text := "nameserver " + gateway + "\n"
	var search []string
	for _, domain := range s.Search[:min(len(s.Search), guestapi.MaxSearch)] {
		if guestapi.IsSearchDomain(domain) {
			search = append(search, domain)
		}
	}
	if len(search) > 0 {
		text += "search " + strings.Join(search, " ") + "\n"
	}
	for _, option := range s.ResolverOptions {
		if guestapi.IsResolverOption(option) {
			text += "options " + option + "\n"
		}
	}
	return text
}

// utc is the zone of a machine that is told of none.
var utc = guestapi.Zone{Name: "Etc/UTC", Data: utcFile()}

// utcFile is UTC as a file of RFC 9636: its header and data for old readers, the same
// for others, and the rule for all times.
func utcFile() []byte {
	half := "TZif2" + strings.Repeat("\x00", 15+4*4) + "\x00\x00\x00\x01" + "\x00\x00\x00\x04" + strings.Repeat("\x00", 6) + "UTC\x00"
	return []byte(half + half + "\nUTC0\n")
}

// applyZone makes that the zone of this machine whose files are in dir. What is in a file that
// containers may have mounted is replaced in its place, so that they follow.
func applyZone(dir string, zone *guestapi.Zone) error {
	if zone == nil {
		zone = &utc
	}
	if err := zone.Check(); err != nil {
		return fmt.Errorf("setting the time zone: %w", err)
	}
	name := zone.Name
	if name == "" { // nobody knows it
		name = "localtime"
	}
	return errors.Join(
		overwrite(filepath.Join(dir, "localtime"), zone.Data),
		overwrite(filepath.Join(dir, "timezone"), []byte(name+"\n")))
}

// overwrite puts data into a file that stays the same. One that is not there, or a link, is
// made anew.
func overwrite(path string, data []byte) error {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return writeChanged(path, data, 0o644)
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Where dockerd has its registries' certificates: the user's persist on the data disk, the
// host's are in memory alone, and links beside the user's lead to them.
const (
	registriesDir     = "/var/lib/boot2docker/etc/docker/certs.d"
	hostRegistriesDir = runDir + "/certs.d"
	hostPrefix        = "hyve-host-"
)

// linkRegistries gives dockerd, which reads them at each use, those files of the host and
// no others.
func linkRegistries(dir, memory string, files []guestapi.RegistryFile) error {
	wanted := map[string]string{} // links, and where they lead
	var errs []error
	if err := os.RemoveAll(memory); err != nil {
		errs = append(errs, fmt.Errorf("removing registries' certificates: %w", err))
	}
	for _, file := range files {
		if err := file.Check(); err != nil {
			errs = append(errs, fmt.Errorf("taking a registry's certificate: %w", err))
			continue
		}
		target := filepath.Join(memory, file.Registry, file.Name)
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, os.WriteFile(target, file.Data, 0o600))
		wanted[filepath.Join(dir, file.Registry, hostPrefix+file.Name)] = target
	}
	links, _ := filepath.Glob(filepath.Join(dir, "*", hostPrefix+"*"))
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == wanted[link] {
			delete(wanted, link)
			continue
		}
		errs = append(errs, os.Remove(link))
		os.Remove(filepath.Dir(link)) // if it is empty
	}
	for link, target := range wanted {
		errs = append(errs, os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(target, link))
	}
	return errors.Join(errs...)
}

// engineCAs is the file in which dockerd finds whom to trust. It is dockerd's own, so that
// it can be told whether dockerd has read it, which it does once.
const engineCAs = runDir + "/cas.pem"

// unread is the time of access of a file that nobody has read yet.
var unread = time.Unix(1, 0)

// writeEngineCAs puts the trusted certificates where dockerd looks. It does not read what
// was there, which would count.
func writeEngineCAs(path string, bundle []byte) error {
	draft := path + ".new"
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(draft, bundle, 0o644)
	}
	if err == nil {
		err = os.Chtimes(draft, unread, time.Now())
	}
	if err == nil {
		err = os.Rename(draft, path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// A witness tells whether a file was read, also when another has taken its place since.
type witness struct{ f *os.File }

func openWitness(path string) (witness, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return witness{f}, err
}

// read closes the witness and tells whether somebody has read the file.
func (w witness) read() bool {
	if w.f == nil {
		return false
	}
	defer w.f.Close()
	var st unix.Stat_t
	return unix.Fstat(int(w.f.Fd()), &st) != nil || st.Atim.Sec != unread.Unix()
}

// certificates are those in a text in PEM, and nothing else that is in it.
func certificates(text string) string {
	var kept strings.Builder
	rest := []byte(text[:min(len(text), guestapi.MaxCAs)])
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return kept.String()
		}
		if block.Type == "CERTIFICATE" {
			kept.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
		}
	}
}
