package debian

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/hyve-vm/hyve/internal/hint"
)

// A Digest is the size and SHA-256 of a file.
type Digest struct {
	Size   int64
	SHA256 string // 64 lower-case hex digits
}

// A Release is a suite's signed metadata.
type Release struct {
	Suite      string    // as asked for, for example "trixie-security"
	Release    string    // that the suite belongs to, for example "trixie"
	Codename   string    // as the file says; equal to Suite
	Version    string    // for example "13.8"; may be empty
	Date       time.Time // when the archive made it
	ValidUntil time.Time // zero if it does not expire
	ByHash     bool      // files can be asked for by their SHA-256
	Files      map[string]Digest
	URL        string // the archive's base it came from
}

const signedHead = "-----BEGIN PGP SIGNED MESSAGE-----"

// ExpiredError says that a Release, good otherwise, is past its Valid-Until.
type ExpiredError struct{ Release *Release }

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("it expired at %s", e.Release.ValidUntil.Format(time.RFC3339))
}

// Hint says how to go on.
func (e *ExpiredError) Hint() string {
	return "the mirror is no longer updated, or this computer's clock is wrong; choose another mirror with --mirror"
}

// ParseRelease verifies an InRelease file against keys, as of now, and returns
// its content. The error says which of signature, suite or date is wrong; it is an
// *ExpiredError only where everything else is good.
func ParseRelease(data []byte, suite string, keys openpgp.EntityList, now time.Time) (*Release, error) {
	text, err := verify(data, keys, now)
	if err != nil {
		return nil, err
	}
	r, err := parseReleaseText(text)
	if err != nil {
		return nil, err
	}
	r.Suite = suite
	if r.Codename != suite {
		return nil, fmt.Errorf("it is the release %q, not %q", r.Codename, suite)
	}
	if ahead := r.Date.Sub(now); ahead > 24*time.Hour {
		return nil, hint.With(
			fmt.Errorf("it is dated %s, which is in the future", r.Date.Format(time.RFC3339)),
			"this computer's clock is wrong; set it")
	}
	if !r.ValidUntil.IsZero() && now.After(r.ValidUntil) {
		return nil, &ExpiredError{r}
	}
	return r, nil
}

// verify returns the signed text of a clear-signed message.
func verify(data []byte, keys openpgp.EntityList, now time.Time) ([]byte, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(data, "\r\n"), []byte(signedHead)) {
		return nil, errors.New("it is not a signed message")
	}
	block, rest := clearsign.Decode(data)
	if block == nil {
		return nil, errors.New("it is cut short or damaged: its signature does not end")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("something follows its signature")
	}
	cfg := &packet.Config{Time: func() time.Time { return now }}
	var causes []string
	packets := packet.NewOpaqueReader(block.ArmoredSignature.Body)
	for {
		p, err := packets.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("its signature is cut short or damaged: %w", err)
		}
		var sig bytes.Buffer
		if err := p.Serialize(&sig); err != nil {
			return nil, fmt.Errorf("its signature is damaged: %w", err)
		}
		_, err = openpgp.CheckDetachedSignature(keys, bytes.NewReader(block.Bytes), &sig, cfg)
		if err == nil {
			return block.Plaintext, nil
		}
		if errors.Is(err, pgperrors.ErrSignatureExpired) {
			err = errors.New("one is not valid at this computer's time, " + now.Format(time.RFC3339))
		}
		causes = append(causes, err.Error())
	}
	if len(causes) == 0 {
		return nil, errors.New("it has no signature")
	}
	return nil, hint.With(
		fmt.Errorf("no signature is good: %s", strings.Join(causes, "; ")),
		"the mirror or something on the way to it changed the file, or it is no Debian mirror; choose another with --mirror")
}

func parseReleaseText(text []byte) (*Release, error) {
	c := NewControlReader(bytes.NewReader(text))
	p, err := c.Next()
	if err != nil {
		return nil, fmt.Errorf("reading its fields: %w", err)
	}
	r := &Release{
		Codename: p.Get("Codename"),
		Version:  p.Get("Version"),
		ByHash:   p.Get("Acquire-By-Hash") == "yes",
	}
	if r.Date, err = parseDate(p.Get("Date")); err != nil {
		return nil, fmt.Errorf("reading its Date: %w", err)
	}
	if v := p.Get("Valid-Until"); v != "" {
		if r.ValidUntil, err = parseDate(v); err != nil {
			return nil, fmt.Errorf("reading its Valid-Until: %w", err)
		}
	}
	if r.Files, err = parseDigests(p.Get("SHA256")); err != nil {
		return nil, fmt.Errorf("reading its SHA256 list: %w", err)
	}
	return r, nil
}

// parseDigests parses lines of "SHA256 SIZE PATH".
func parseDigests(field string) (map[string]Digest, error) {
	files := map[string]Digest{}
	for line := range strings.SplitSeq(field, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 {
			return nil, fmt.Errorf("line %q has %d parts, not 3", line, len(f))
		}
		d, err := parseDigest(f[0], f[1])
		if err != nil {
			return nil, err
		}
		if !localPath(f[2]) {
			return nil, fmt.Errorf("path %q leaves the archive", f[2])
		}
		files[f[2]] = d
	}
	if len(files) == 0 {
		return nil, errors.New("it is empty")
	}
	return files, nil
}

func parseDigest(sum, size string) (Digest, error) {
	if b, err := hex.DecodeString(sum); err != nil || len(b) != 32 || strings.ToLower(sum) != sum {
		return Digest{}, fmt.Errorf("%q is no SHA-256", sum)
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		return Digest{}, fmt.Errorf("%q is no size", size)
	}
	return Digest{Size: n, SHA256: sum}, nil
}

// localPath says whether p is a clean relative path that stays below its base.
func localPath(p string) bool {
	return p != "" && p == path.Clean(p) && p != "." && p != ".." && p[0] != '/' && !strings.HasPrefix(p, "../")
}

// parseDate parses the RFC 5322 dates of Release files, always in UTC.
func parseDate(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC1123, "Mon, _2 Jan 2006 15:04:05 MST", time.RFC1123Z} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no date", s)
}
