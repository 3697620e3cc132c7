// Package guestapi is the conversation between the supervisor on the host and
// hyve-init in the guest: the configuration that goes in, the events that come
// out, and their framing. It does no I/O beyond the stream it is given.
//
// Both directions carry JSON, one message a line (framing.go), over the
// virtio-serial port named [Port]. The host opens every conversation with a
// [Hello] that carries a session number; the guest answers with an
// [EventHello] that repeats it, and the host drops everything before that
// answer. A guest that was frozen does not notice that another supervisor is at
// the other end after its thaw, so a hello may come at any time and every
// request is safe to repeat.
package guestapi

import (
	"slices"
	"strings"
	"time"
)

// Version is the protocol's version; both ends refuse another one.
const Version = 1

// Port is the virtio-serial port's name, /dev/virtio-ports/PORT in the guest.
const Port = "hyve.control"

// Ports on which the guest answers on the virtual network.
const (
	EnginePort = 2376 // Docker's API behind mutual TLS
	SSHPort    = 22
)

// Disk serials by which the guest finds its disks, whatever their order.
const (
	RootDisk = "hyve-root" // EROFS, read-only, from the image
	DataDisk = "hyve-data" // ext4, made on first use
)

// A Request is what the host asks; exactly one of the pointers is set.
type Request struct {
	// ID is repeated in the EventReply. 0 asks for no reply.
	ID uint64 `json:"id,omitempty"`

	Hello     *Hello    `json:"hello,omitempty"`
	Configure *Config   `json:"configure,omitempty"` // once a boot, before the engine starts
	Identity  *Identity `json:"identity,omitempty"`  // at any later time
	PortAck   *PortAck  `json:"portAck,omitempty"`
	Clock     *Clock    `json:"clock,omitempty"`
	Freeze    *Freeze   `json:"freeze,omitempty"`
	Unfreeze  *Unfreeze `json:"unfreeze,omitempty"`
	Usage     *struct{} `json:"usage,omitempty"` // the Reply has it
	Sync      *struct{} `json:"sync,omitempty"`  // the Reply says that all that was written is on the disk
	Grow      *Grow     `json:"grow,omitempty"`
	Examine   *Examine  `json:"examine,omitempty"` // the Reply says what came of it
	Shutdown  *Shutdown `json:"shutdown,omitempty"`
}

// Hello opens a conversation.
type Hello struct {
	Version int    `json:"version"`
	Session uint64 `json:"session"`
}

// Config is everything that the guest needs to become a machine.
type Config struct {
	Identity Identity `json:"identity"`
	Engine   Engine   `json:"engine"`
}

// Identity makes this machine of a machine. It can be applied again at any
// time under a running engine, which is how a thawed machine gets its own.
type Identity struct {
	Name    string  `json:"name"` // host name
	ID      string  `json:"id"`   // 32 lower-case hex digits: /etc/machine-id
	Network Network `json:"network"`
	// HostAddress is the machine's own address on the host, which is one of the host's
	// loopback, and HostAlias the address by which the virtual network leads to it. Both
	// are empty where the machine has no address of its own.
	HostAddress string `json:"hostAddress,omitempty"`
	HostAlias   string `json:"hostAlias,omitempty"`
	Clock       Clock  `json:"clock"`
	Seed        []byte `json:"seed"` // 32 random bytes for the kernel's generator

	// PEM: the installation's CA, which signs clients, and what the engine's
	// front on EnginePort shows them.
	CA         string `json:"ca"`
	ServerCert string `json:"serverCert"`
	ServerKey  string `json:"serverKey"`

	SSHHostKey     string   `json:"sshHostKey"`     // OpenSSH PEM, ed25519
	AuthorizedKeys []string `json:"authorizedKeys"` // authorized_keys lines of user docker

	// Proxies of the host as the guest should see them: HTTP_PROXY, HTTPS_PROXY,
	// NO_PROXY. Empty values are absent.
	Proxies map[string]string `json:"proxies,omitempty"`

	Surroundings Surroundings `json:"surroundings"`

	RegistryMirrors    []string `json:"registryMirrors,omitempty"`
	InsecureRegistries []string `json:"insecureRegistries,omitempty"`
	Labels             []string `json:"labels,omitempty"` // "k=v", as dockerd's --label
}

// Network is the guest's place in the virtual network.
type Network struct {
	MAC     string `json:"mac"`     // of the guest's one card
	Address string `json:"address"` // CIDR
	Gateway string `json:"gateway"` // also the name server
	Host    string `json:"host"`    // the host's loopback; also where hyve's own connections come from
	MTU     int    `json:"mtu"`     // of the card and of docker's bridges
}

// Clock is the host's time at the moment of sending.
type Clock struct {
	UnixNano int64 `json:"unixNano"`
}

// ClockNow returns the host's time.
func ClockNow() Clock { return Clock{UnixNano: time.Now().UnixNano()} }

// Engine is what dockerd reads only at its start.
type Engine struct {
	// ID is the engine's identifier ("docker info").
	ID string `json:"id,omitempty"`
	// Options are dockerd flags without their dashes, "name=value" or "name".
	Options []string `json:"options,omitempty"`
	// Env are variables of dockerd's environment, "NAME=value".
	Env []string `json:"env,omitempty"`
}

// OwnOptions are those of dockerd that are hyve's alone: another value would cut the
// machine off from its engine or from its published ports, or open the engine to the
// network. Whoever asks for one is refused; the guest leaves them out.
var OwnOptions = []string{
	"host", "H", "hosts", "tls", "tlsverify", "tlscacert", "tlscert", "tlskey",
	"containerd", "config-file", "pidfile", "userland-proxy", "userland-proxy-path", "group", "G",
}

// OwnedOption tells whether an option of dockerd, "name" or "name=value" with or without
// dashes, is one of OwnOptions, and which.
func OwnedOption(option string) (name string, owned bool) {
	name, _, _ = strings.Cut(strings.TrimLeft(option, "-"), "=")
	return name, slices.Contains(OwnOptions, name)
}

// PortAck answers an EventPortOpened. Until it arrives `docker run` waits.
type PortAck struct {
	ID uint64 `json:"id"`
	// Refused is why the port cannot be had on the host, in the words that docker ends
	// "listen tcp4 0.0.0.0:80: " with; empty if it can. Only a Firm one is refused.
	Refused string `json:"refused,omitempty"`
	// Taken says of a refusal that somebody has the port, so that another one may be free.
	Taken bool `json:"taken,omitempty"`
}

// Freeze brings the guest to where its VM can be frozen: containers are stopped as
// at a shutdown, users are logged out, everything is on the disk. The Reply says
// that it is so. The next Hello ends it, and the next Identity starts the containers
// that a boot would start; its Reply comes after that.
type Freeze struct {
	// KeepRunning leaves containers and users as they are.
	KeepRunning bool `json:"keepRunning,omitempty"`
	// IfQuiet refuses where there are any, see Busy.
	IfQuiet bool `json:"ifQuiet,omitempty"`
}

// Unfreeze takes a Freeze back of which nothing came.
type Unfreeze struct{}

// Grow says that the data disk has grown, or is about to. The Reply says that its file
// system has, too.
type Grow struct {
	Size int64 `json:"size"` // in bytes, of the disk
}

// Examine has a guest that was thawed look for what a thaw that went wrong has left of it.
// What it compares itself with it has noted before it was frozen.
type Examine struct {
	// Note is asked before that: there is nothing to be found yet.
	Note bool `json:"note,omitempty"`
}

// Shutdown ends the guest cleanly: containers, engine, file systems, power.
type Shutdown struct {
	Reboot bool `json:"reboot,omitempty"`
}

// An Event is what the guest pushes; exactly one of the pointers is set. Every text in it
// is of a type that holds no more than its bound (text.go).
type Event struct {
	// Uptime is the guest's monotonic clock since its kernel started.
	Uptime time.Duration `json:"uptime"`

	Hello       *GuestHello  `json:"hello,omitempty"`
	Reply       *Reply       `json:"reply,omitempty"`
	Phase       *Phase       `json:"phase,omitempty"`
	EngineReady *EngineReady `json:"engineReady,omitempty"`
	EngineEnded *EngineEnded `json:"engineEnded,omitempty"`
	Failed      *Failed      `json:"failed,omitempty"`
	Log         *Log         `json:"log,omitempty"`
	PortOpened  *PortOpened  `json:"portOpened,omitempty"`
	PortClosed  *PortClosed  `json:"portClosed,omitempty"`
	OutOfMemory *OutOfMemory `json:"outOfMemory,omitempty"`
	DiskFull    *DiskFull    `json:"diskFull,omitempty"`
	Unreadable  *Unreadable  `json:"unreadable,omitempty"`
	Busy        *Busy        `json:"busy,omitempty"`
	PowerOff    *PowerOff    `json:"powerOff,omitempty"`
}

// GuestHello is the guest's answer to a Hello; it repeats the session.
type GuestHello struct {
	Version int    `json:"version"`
	Session uint64 `json:"session"`
	BootID  Text   `json:"bootID"`
}

// Reply ends a Request that had an ID. Error is empty when it went well.
type Reply struct {
	ID          uint64       `json:"id"`
	Error       Prose        `json:"error,omitzero"`
	Usage       *Usage       `json:"usage,omitempty"`
	Examination *Examination `json:"examination,omitempty"`
}

// Examination is what a guest finds of itself. Its clocks are read last.
type Examination struct {
	// Pages of its memory were compared with what it has noted of them; Damaged ones have
	// another content. Both are 0 once they have been compared.
	Pages   int `json:"pages,omitempty"`
	Damaged int `json:"damaged,omitempty"`
	// Complaint is the first line at the level of a warning, or worse, that its kernel has
	// logged since the last time, but for those that are known to mean nothing.
	Complaint Text `json:"complaint,omitzero"`

	UnixNano  int64         `json:"unixNano"`  // its clock
	Monotonic time.Duration `json:"monotonic"` // the one that nobody sets, since the note
}

// Usage is what the guest uses, in bytes.
type Usage struct {
	MemoryTotal int64 `json:"memoryTotal"`
	MemoryUsed  int64 `json:"memoryUsed"` // what it could not give up at once
}

// Phase says that a step of the boot has ended; Event.Uptime says when.
type Phase struct {
	Name Text `json:"name"` // one of the Phase constants
}

// The boot's steps, in the order in which they usually end.
const (
	PhaseInit       = "init"       // hyve-init's first instruction
	PhaseModules    = "modules"    // what the root and the channel need is loaded
	PhaseRoot       = "root"       // root is mounted and entered
	PhaseConfigured = "configured" // Config has arrived
	PhaseNetwork    = "network"
	PhaseDisk       = "disk"       // data disk is mounted
	PhaseContainerd = "containerd" // its socket answers
	PhaseEngine     = "engine"     // dockerd's socket answers
	PhaseIdentity   = "identity"   // a guest that was thawed is its machine
)

// EngineReady says that the engine answers on EnginePort.
type EngineReady struct{}

// EngineEnded says that it does not any more, whether or not somebody wanted that.
type EngineEnded struct{}

// Failed says which step failed and why. Fatal: the machine will power off.
type Failed struct {
	Phase Text  `json:"phase"`
	Cause Prose `json:"cause"` // one or more lines, most important first
	Fatal bool  `json:"fatal,omitempty"`
}

// Log is one line of a service's output, without its newline.
type Log struct {
	Service Text `json:"service"` // one of the Service constants
	Line    Line `json:"line"`
}

// The services that log.
const (
	ServiceInit       = "init"
	ServiceContainerd = "containerd"
	ServiceDockerd    = "dockerd"
)

// PortOpened asks the host to publish a container's port. The guest's proxy
// for it waits for the PortAck, and `docker run` waits for the proxy. ID names
// the opening until its PortClosed.
type PortOpened struct {
	ID       uint64  `json:"id"`
	Protocol Text    `json:"protocol"` // "tcp", "udp", "udplite", "sctp"
	HostIP   Address `json:"hostIP"`   // as given to -p; "0.0.0.0" and "::" are any, none is both
	Port     uint16  `json:"port"`     // the published port
	// GuestPort is where the guest answers for it, if that is another port.
	GuestPort uint16 `json:"guestPort,omitempty"`
	// Firm says that the PortAck may refuse: nobody relies on the port yet.
	Firm bool `json:"firm,omitempty"`
	// Chosen says that docker has chosen the port, and would choose another one.
	Chosen bool `json:"chosen,omitempty"`
}

// PortClosed takes a PortOpened back.
type PortClosed struct {
	ID uint64 `json:"id"`
}

// OutOfMemory says that the guest's kernel killed a process for want of memory.
type OutOfMemory struct {
	Process Text `json:"process"`
	Cgroup  Text `json:"cgroup,omitzero"`
}

// DiskFull says that the data disk has less than the room it needs, or no longer has.
type DiskFull struct {
	FreeBytes int64 `json:"freeBytes"`
	Over      bool  `json:"over,omitempty"`
}

// Unreadable says that the data disk has images and containers of a storage driver that
// the engine does not know any more.
type Unreadable struct {
	Driver Text `json:"driver"` // "aufs", for example
}

// Busy says whether anything runs for the user: containers, steps of builds, commands
// over SSH and what those have left running. It is told when it changes and after
// every Hello.
type Busy struct {
	Running bool `json:"running"`
}

// PowerOff is the guest's last word. File systems are clean.
type PowerOff struct {
	Reboot bool `json:"reboot,omitempty"`
	Reason Text `json:"reason,omitzero"`
}
