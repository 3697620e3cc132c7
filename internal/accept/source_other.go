//go:build !linux

package accept

import "net"

func localUser(net.Conn) string   { return local }
func peerProcess(net.Conn) string { return local }
func own(string) bool             { return true }

func orphaned(net.Conn) (orphan, known bool) { return false, false }
