//go:build !linux

package accept

import "net"

func localUser(net.Conn) string   { return local }
func peerProcess(net.Conn) string { return local }
