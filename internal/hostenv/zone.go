package hostenv

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// zone returns the host's time zone, nil if it says none: that of TZ, where that names a
// file as in tzset(3), else that of /etc/localtime.
func (h *Host) zone() (*guestapi.Zone, error) {
	path := h.Localtime
	if tz := h.tz(); tz != "" {
		named, ok := h.namedZone()
		if !ok {
			return nil, fmt.Errorf("the time zone TZ=%.64q is none that there is a file of: the machine keeps its own", tz)
		}
		path = named
	} else if _, err := os.Lstat(path); err != nil {
		return nil, nil // UTC
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("reading the time zone: %w", err)
	}
	data, err := bounded.ReadFile(target, guestapi.MaxZone)
	if err != nil {
		return nil, fmt.Errorf("reading the time zone: %w", err)
	}
	zone := &guestapi.Zone{Name: h.zoneName(path, target, data), Data: data}
	if err := zone.Check(); err != nil {
		return nil, fmt.Errorf("reading the time zone %s: %w", path, err)
	}
	return zone, nil
}

func (h *Host) tz() string { return strings.TrimPrefix(h.Getenv("TZ"), ":") }

// namedZone is the file that TZ names: a path, or a zone's name.
func (h *Host) namedZone() (path string, ok bool) {
	tz := h.tz()
	paths := []string{tz}
	if !filepath.IsAbs(tz) {
		paths = nil
		for _, dir := range h.ZoneInfo {
			if filepath.IsLocal(tz) {
				paths = append(paths, filepath.Join(dir, tz))
			}
		}
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, true
		}
	}
	return "", false
}

// zoneName is the name of the zone that path leads to, empty if there is none that can be
// used. The name before links were followed to the end is what users know: Europe/Berlin
// may be a link to an older name.
func (h *Host) zoneName(path, target string, data []byte) string {
	for range maxLinks {
		if name := zoneNameOf(path); name != "" {
			return name
		}
		next, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(next) {
			next = filepath.Join(filepath.Dir(path), next)
		}
		path = next
	}
	if name := zoneNameOf(target); name != "" {
		return name
	}
	return h.findZone(data)
}

// zoneNameOf is the name of the zone whose file has that path, if that is one.
func zoneNameOf(path string) string {
	_, name, _ := strings.Cut(filepath.Clean(path), "zoneinfo/")
	name = strings.TrimPrefix(strings.TrimPrefix(name, "posix/"), "right/")
	if !guestapi.IsZoneName(name) {
		return ""
	}
	return name
}

// findZone finds the name of a zone whose file was copied.
func (h *Host) findZone(data []byte) (name string) {
	for _, dir := range h.ZoneInfo {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			if info, err := d.Info(); err != nil || info.Size() != int64(len(data)) {
				return nil
			}
			if same, err := bounded.ReadFile(path, guestapi.MaxZone); err != nil || !bytes.Equal(same, data) {
				return nil
			}
			if name = zoneNameOf(path); name == "" {
				return nil
			}
			return fs.SkipAll
		})
		if name != "" {
			return name
		}
	}
	return ""
}
