package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/wholefile"
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
		return wholefile.Write(path, data, 0o644)
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
