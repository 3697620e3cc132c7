package guest

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// memoryUsage tells what memory there is and what of it is in use.
func memoryUsage() (guestapi.Usage, error) {
	m, err := readMeminfo()
	return guestapi.Usage{MemoryTotal: m["MemTotal"], MemoryUsed: m["MemTotal"] - m["MemAvailable"]}, err
}

func readMeminfo() (map[string]int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("looking at the memory: %w", err)
	}
	return meminfo(string(b)), nil
}

// meminfo returns the numbers in /proc/meminfo, in bytes.
func meminfo(text string) map[string]int64 {
	m := map[string]int64{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			m[name] = n << 10 // all of them are in KiB
		}
	}
	return m
}

// reportedOrder is the size, as a power of two of pages, from which on free memory is
// given back to the host: pageblock_order on machines with pages of 4 KiB.
const reportedOrder = 9

// fragments counts, in /proc/buddyinfo, the free pages that are in smaller pieces than
// the host is given back. Each line is "Node 0, zone Normal", then how many pieces of
// each size there are.
func fragments(buddyinfo string) (pages int) {
	for line := range strings.Lines(buddyinfo) {
		_, zone, ok := strings.Cut(line, ", zone ")
		fields := strings.Fields(zone)
		if !ok || len(fields) == 0 {
			continue
		}
		for order, field := range fields[1:min(len(fields), 1+reportedOrder)] {
			count, _ := strconv.Atoi(field)
			pages += count << order
		}
	}
	return pages
}
