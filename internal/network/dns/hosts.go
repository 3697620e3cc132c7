package dns

import (
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/bounded"
)

// maxHosts bounds what is read of the hosts file, in bytes. Lists that block
// advertisements reach a few MB.
const maxHosts = 16 << 20

// A hostsFile is the host's /etc/hosts, parsed again when its time, size or
// identity changes.
type hostsFile struct {
	path string

	mu    sync.Mutex
	seen  os.FileInfo
	read  time.Time
	names map[string][]netip.Addr
}

// lookup returns a name's addresses, and whether the file has the name. The name
// is in lower case, without a final dot.
func (f *hostsFile) lookup(name string) ([]netip.Addr, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, err := os.Stat(f.path)
	if err != nil {
		f.seen, f.names = nil, nil
		return nil, false
	}
	if !f.fresh(now) {
		read := time.Now()
		b, err := bounded.ReadFile(f.path, maxHosts)
		if err != nil {
			b = nil
		}
		f.seen, f.read, f.names = now, read, parseHosts(string(b))
	}
	addrs, ok := f.names[name]
	return addrs, ok
}

// fresh tells whether what was read is still the file's content. A file that
// was younger than its time stamp's resolution when it was read may have
// changed since without a trace.
func (f *hostsFile) fresh(now os.FileInfo) bool {
	return f.seen != nil && os.SameFile(f.seen, now) &&
		f.seen.Size() == now.Size() && f.seen.ModTime().Equal(now.ModTime()) &&
		f.read.Sub(now.ModTime()) > 2*time.Second
}

// parseHosts reads lines of an address and its names: hosts(5). What is no
// address is skipped, as the C library does.
func parseHosts(text string) map[string][]netip.Addr {
	names := map[string][]netip.Addr{}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		a, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			name = strings.TrimSuffix(strings.ToLower(name), ".")
			names[name] = append(names[name], a)
		}
	}
	return names
}
