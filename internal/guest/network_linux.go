package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/ioctl"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// loopbackUp brings up the loopback.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding the loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bringing up the loopback: %w", err)
	}
	return nil
}

// applyNetwork gives the card its place in the virtual network. What is right
// already is not touched, so that open connections outlive a repetition.
func applyNetwork(ctx context.Context, d *devices, n guestapi.Network) error {
	address, err := netlink.ParseAddr(n.Address)
	if err != nil {
		return fmt.Errorf("reading the address %q: %w", n.Address, err)
	}
	gateway := net.ParseIP(n.Gateway)
	if gateway == nil {
		return fmt.Errorf("reading the gateway %q: not an address", n.Gateway)
	}
	name, err := d.card(ctx)
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding the card %s: %w", name, err)
	}
	if err := setCard(link, n); err != nil {
		return fmt.Errorf("setting up the card %s: %w", name, err)
	}
	if err := setAddress(link, address); err != nil {
		return fmt.Errorf("setting the address of %s: %w", name, err)
	}
	// Replace also brings back a default route that a change of the card took.
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("setting the route by %s: %w", n.Gateway, err)
	}
	return nil
}

// setCard sets the hardware address and the MTU and brings the card up.
func setCard(link netlink.Link, n guestapi.Network) error {
	attrs := link.Attrs()
	if n.MAC != "" {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil {
			return err
		}
		if !bytes.Equal(mac, attrs.HardwareAddr) {
			if err := setMAC(link, mac); err != nil {
				return fmt.Errorf("setting the address %s: %w", mac, err)
			}
		}
	}
	if n.MTU != 0 && n.MTU != attrs.MTU {
		if err := netlink.LinkSetMTU(link, n.MTU); err != nil {
			return fmt.Errorf("setting the MTU %d: %w", n.MTU, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// setMAC changes the hardware address, live where the driver can.
func setMAC(link netlink.Link, mac net.HardwareAddr) error {
	err := netlink.LinkSetHardwareAddr(link, mac)
	if !errors.Is(err, syscall.EBUSY) {
		return err
	}
	if err := netlink.LinkSetDown(link); err != nil {
		return err
	}
	return netlink.LinkSetHardwareAddr(link, mac)
}

// setAddress makes addr the link's only IPv4 address.
func setAddress(link netlink.Link, addr *netlink.Addr) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	found := false
	for _, a := range have {
		if a.IPNet.String() == addr.IPNet.String() {
			found = true
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return err
		}
	}
	if found {
		return nil
	}
	return netlink.AddrAdd(link, addr)
}

// A clock is what the guest knows of the host's time.
type clock struct {
	mu   sync.Mutex
	host int64     // nanoseconds since 1970
	at   time.Time // when that came, by the guest's monotonic clock
}

// learn notes the host's time as it comes in. It may be a while until it is
// applied, and a newer one may come meanwhile.
func (c *clock) learn(now guestapi.Clock) {
	if now.UnixNano == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.host, c.at = now.UnixNano, time.Now()
}

// apply steps the guest's clock to the host's.
func (c *clock) apply() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.host == 0 {
		return nil
	}
	// time.Since is by the monotonic clock, which no step changes.
	tv := syscall.NsecToTimeval(c.host + int64(time.Since(c.at)))
	if err := syscall.Settimeofday(&tv); err != nil {
		return fmt.Errorf("setting the clock: %w", err)
	}
	return nil
}

// addEntropy credits seed to the kernel's generator and has it reseed at once,
// so that two machines thawed from one memory do not draw the same numbers.
func addEntropy(seed []byte) error {
	if len(seed) == 0 {
		return nil
	}
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("seeding the random generator: %w", err)
	}
	defer f.Close()
	// struct rand_pool_info: the credit in bits, the length in bytes, the bytes.
	info := make([]byte, 8, 8+len(seed))
	binary.NativeEndian.PutUint32(info[0:], uint32(len(seed)*8))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(seed)))
	info = append(info, seed...)
	if err := ioctl.Call(f.Fd(), unix.RNDADDENTROPY, info); err != nil {
		return fmt.Errorf("seeding the random generator: %w", err)
	}
	if err := ioctl.Call(f.Fd(), unix.RNDRESEEDCRNG, nil); err != nil {
		return fmt.Errorf("reseeding the random generator: %w", err)
	}
	return nil
}

// hostsFile is /etc/hosts of a machine. Its name resolves to its address on the
// network, so that a program that binds to its host name is reachable.
func hostsFile(name, address string) string {
	text := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if prefix, err := netip.ParsePrefix(address); err == nil && name != "" {
		text += prefix.Addr().String() + "\t" + name + "\n"
	}
	return text
}
