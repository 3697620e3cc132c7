package network

import "github.com/hyve-vm/hyve/internal/accept"

// What a machine's network may have open at one time where the process may have enough
// descriptors. Otherwise it is a share of what there is: the docker socket, the words and
// the hypervisor need some, and what comes from the guest or from any user of the host
// must not take the last.
const (
	maxDials    = 1024 // connections that are being made for the guest
	maxOutbound = 1536 // connections of the guest
	maxInbound  = 1024 // connections to published ports, the engine and SSH
	maxSessions = 1024 // UDP
	maxLookups  = 512  // sockets that ask name servers
	maxPorts    = 4096 // bound on the host, several for each published port

	ownPart = 4 // one in so many of the connections to a listener, and to all, is kept for hyve's user

	ownDescriptors = 64 // of the process, whatever the network does
)

// MemoryLimit is what the Go runtime of a process with one network is to stay below, in
// bytes: see debug.SetMemoryLimit. The garbage of connections would double their memory.
const MemoryLimit = 96 << 20

// limit shares out the descriptors that the process may have.
func (n *Network) limit(descriptors int) {
	free := max(descriptors-ownDescriptors, 0)
	share := func(limit, of16 int) int { return max(min(limit, free*of16/16), 4) }
	n.dials = newCrowd(share(maxDials, 2))
	n.outbound = newCrowd(share(maxOutbound, 3))
	n.inboundLimit = share(maxInbound, 3)
	n.inbound = accept.NewBudget(n.inboundLimit, n.inboundLimit/2)
	n.inbound.KeepOwn(n.inboundLimit / ownPart)
	n.udp.crowd = newCrowd(share(maxSessions, 2))
	ports, lookups := share(maxPorts, 2), share(maxLookups, 1)
	n.listened = accept.NewBudget(ports, ports)
	n.lookups = accept.NewBudget(lookups, lookups)
	n.pool.left.Store(growth)
}
