//go:build linux

package sshd

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// testReaper is the test binary's only one: two would take each other's children.
var testReaper = process.New()

// testKeys are those of a machine and of its user.
type testKeys struct {
	hostPEM string
	host    ssh.PublicKey
	userKey ed25519.PrivateKey
	user    ssh.Signer
}

func newTestKeys(t testing.TB) *testKeys {
	t.Helper()
	k := &testKeys{}
	var host ssh.Signer
	k.hostPEM, host, _ = newKey(t)
	k.host = host.PublicKey()
	_, k.user, k.userKey = newKey(t)
	return k
}

func newKey(t testing.TB) (string, ssh.Signer, ed25519.PrivateKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), signer, key
}

// identity is that of a machine with these keys.
func (k *testKeys) identity() guestapi.Identity {
	return guestapi.Identity{SSHHostKey: k.hostPEM, AuthorizedKeys: []string{string(ssh.MarshalAuthorizedKey(k.user.PublicKey()))}}
}
