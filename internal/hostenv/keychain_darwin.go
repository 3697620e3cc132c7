package hostenv

import (
	"bytes"
	"context"
	"encoding/pem"
	"os"
	"os/exec"
	"time"
)

// keychainPatience bounds how long macOS may take to say whom it trusts.
const keychainPatience = 10 * time.Second

// keychainCAs returns, in PEM, the certificates in the keychain of the administrator that
// macOS trusts for TLS. That they are in it says nothing yet.
func keychainCAs(h *Host) []byte {
	if h.Getenv("SSL_CERT_FILE") != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), keychainPatience)
	defer cancel()
	all, err := exec.CommandContext(ctx, "/usr/bin/security", "find-certificate", "-a", "-p", "/Library/Keychains/System.keychain").Output()
	if err != nil {
		return nil
	}
	var trusted bytes.Buffer
	for der := range certificates(all) {
		one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		f, err := os.CreateTemp("", "hyve-ca-")
		if err != nil {
			return nil
		}
		_, err = f.Write(one)
		f.Close()
		if err == nil && exec.CommandContext(ctx, "/usr/bin/security", "verify-cert", "-l", "-L", "-q", "-p", "ssl", "-c", f.Name()).Run() == nil {
			trusted.Write(one)
		}
		os.Remove(f.Name())
	}
	return trusted.Bytes()
}
