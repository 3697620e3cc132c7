package pki

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/hyve-vm/hyve/internal/hint"
)

// An SSHKey is a key pair for SSH.
type SSHKey struct {
	PEM    []byte // the private key, OpenSSH's format
	Signer ssh.Signer
}

// Public returns the public key as "TYPE BASE64": with a name before it a line
// of known_hosts, alone a line of authorized_keys.
func (k SSHKey) Public() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.Signer.PublicKey())))
}

// line returns the text of the .pub file.
func (k SSHKey) line() []byte { return []byte(k.Public() + " hyve\n") }

// SSHKey returns the installation's client key, id_ed25519 in the CA's
// directory, as [OpenSSHKey] does.
func (ca *CA) SSHKey() (SSHKey, error) { return OpenSSHKey(filepath.Join(ca.dir, sshKeyFile)) }

// OpenSSHKey loads the private key at path, or makes an ed25519 one, and sees
// to the public key at path + ".pub". A key that cannot be read is an error
// with a Hint: somebody may have entered its public half elsewhere.
func OpenSSHKey(path string) (SSHKey, error) {
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return SSHKey{}, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return SSHKey{}, err
	}
	defer unlock()

	var key SSHKey
	key.PEM, err = readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		if key.PEM, err = newSSHKey(); err == nil {
			err = writeFile(path, key.PEM, 0o600)
		}
	}
	if err != nil {
		return SSHKey{}, err
	}
	if key.Signer, err = ssh.ParsePrivateKey(key.PEM); err != nil {
		return SSHKey{}, hint.With(
			fmt.Errorf("reading the SSH key %s: %w", path, err),
			"restore it from a backup, or move it away: the next start makes a new one",
		)
	}
	return key, updateFile(path+".pub", key.line(), 0o644)
}

func newSSHKey() ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making an SSH key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "hyve")
	if err != nil {
		return nil, fmt.Errorf("making an SSH key: %w", err)
	}
	return pem.EncodeToMemory(block), nil
}
