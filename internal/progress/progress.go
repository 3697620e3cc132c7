// Package progress tells a user what a command is about: on a terminal with one
// live line that becomes a final one as each stage ends, elsewhere with plain
// lines and no control characters.
package progress

import (
	"cmp"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/hyve-vm/hyve/internal/terminal"
)

const (
	// interval is the time between two drawings of the live line, and how long a
	// stage lasts at least to get one.
	interval = 100 * time.Millisecond
	// patience is how long a stage lasts before a plain line announces it.
	patience = 2 * time.Second
)

// Progress shows the stages of one command. It is safe for concurrent use. For
// --quiet give it io.Discard.
type Progress struct {
	w     io.Writer
	live  bool       // a terminal that can rewrite its line
	width func() int // its width in columns
	style style

	mu     sync.Mutex
	active []*Stage // in the order of their beginning; the live line is the first's
	timer  *time.Timer
	drawn  bool // the live line is on the screen
	frame  int
	closed bool
}

// style is how a terminal's lines look.
type style struct {
	done, failed string
	spinner      []string
	ascii        bool
}

// New returns a Progress that writes to w, which is standard error as a rule,
// in the manner that w, TERM, NO_COLOR and the locale ask for.
func New(w io.Writer) *Progress {
	w = terminal.Raw(w)
	p := &Progress{w: w, style: newStyle(os.Getenv)}
	file, ok := w.(*os.File)
	kind := os.Getenv("TERM")
	if ok && kind != "" && kind != "dumb" && term.IsTerminal(int(file.Fd())) {
		p.live = true
		p.width = func() int {
			width, _, err := term.GetSize(int(file.Fd()))
			if err != nil || width <= 0 {
				return 80
			}
			return width
		}
	}
	return p
}

func newStyle(getenv func(string) string) style {
	locale := strings.ToLower(cmp.Or(getenv("LC_ALL"), getenv("LC_CTYPE"), getenv("LANG")))
	s := style{"✓", "✗", strings.Split("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", ""), false}
	if !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8") {
		s = style{"[ok]", "[failed]", strings.Split(`|/-\`, ""), true}
	}
	if getenv("NO_COLOR") == "" {
		s.done = "\x1b[32m" + s.done + "\x1b[0m"
		s.failed = "\x1b[31m" + s.failed + "\x1b[0m"
	}
	return s
}

// Live tells whether there is a terminal on which a line is rewritten.
func (p *Progress) Live() bool { return p.live }

// Stage begins a stage; what says what is being done, as "Starting the machine".
func (p *Progress) Stage(what string) *Stage {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &Stage{p: p, what: what, begin: time.Now()}
	if p.closed {
		return s
	}
	p.active = append(p.active, s)
	switch {
	case !p.live:
		s.timer = time.AfterFunc(patience, s.announce)
	case p.timer == nil:
		p.timer = time.AfterFunc(interval, p.tick)
	case len(p.active) == 1:
		p.timer.Reset(interval)
	}
	return s
}

// Print writes a line, above the live one where there is one.
func (p *Progress) Print(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(clean(line, false))
}

// Close ends the live line without a trace; stages that have not ended are
// forgotten. Nothing is written and no timer runs after it.
func (p *Progress) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range slices.Clone(p.active) {
		s.end()
	}
	if p.drawn {
		io.WriteString(p.w, "\r\x1b[K")
		p.drawn = false
	}
	p.closed = true
}

// line writes a line that stays. p.mu is held.
func (p *Progress) line(text string) {
	if p.closed {
		return
	}
	if p.drawn {
		text = "\r\x1b[K" + text
		p.drawn = false
	}
	io.WriteString(p.w, text+"\n")
}

// tick draws the live line, for as long as there is a stage.
func (p *Progress) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.active) == 0 {
		return
	}
	frame := p.style.spinner[p.frame%len(p.style.spinner)]
	p.frame++
	// The last column stays free: some terminals wrap as soon as it is filled.
	text := cut(frame+" "+clean(p.active[0].status(), p.style.ascii), p.width()-1)
	io.WriteString(p.w, "\r"+text+"\x1b[K")
	p.drawn = true
	p.timer.Reset(interval)
}
