package progress

import (
	"fmt"
	"slices"
	"time"
)

// A Stage is one thing that is being done. It ends with Done or Fail; calls
// after that do nothing.
type Stage struct {
	p     *Progress
	what  string
	begin time.Time
	timer *time.Timer // announces it, off terminals
	said  bool        // it was announced

	detail      string
	done, total int64
	// Where the bytes began, for their rate.
	since time.Time
	base  int64
}

// Detail says what the stage is at, on a live line only.
func (s *Stage) Detail(text string) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.detail = text
}

// Bytes says how far a transfer is, on a live line only. A total of 0 is not
// known. The rate counts from the first call.
func (s *Stage) Bytes(done, total int64) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.since.IsZero() {
		s.since, s.base = time.Now(), done
	}
	s.done, s.total = done, total
}

// Done ends the stage well; what was done, as "Started the machine", takes the
// place of the stage's name unless it is empty. Then a plain line that has announced
// the stage is enough: what comes next tells that it has ended.
func (s *Stage) Done(what string) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if !s.end() {
		return
	}
	if what == "" {
		if s.said {
			return
		}
		what = s.what
	}
	if s.p.live {
		what = s.p.style.done + " " + clean(what, s.p.style.ascii)
	} else {
		what = clean(what, false)
	}
	s.p.line(fmt.Sprintf("%s (%s)", what, elapsed(time.Since(s.begin))))
}

// Fail ends the stage badly. The error itself is for the caller to print.
func (s *Stage) Fail() {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if !s.end() {
		return
	}
	took := elapsed(time.Since(s.begin))
	if s.p.live {
		s.p.line(fmt.Sprintf("%s %s (%s)", s.p.style.failed, clean(s.what, s.p.style.ascii), took))
	} else {
		s.p.line(fmt.Sprintf("%s: failed (%s)", clean(s.what, false), took))
	}
}

// end takes the stage off the active ones and says whether it was one.
func (s *Stage) end() bool {
	i := slices.Index(s.p.active, s)
	if i < 0 {
		return false
	}
	s.p.active = slices.Delete(s.p.active, i, i+1)
	if s.timer != nil {
		s.timer.Stop()
	}
	if len(s.p.active) == 0 && s.p.timer != nil {
		s.p.timer.Stop()
	}
	return true
}

// announce writes the plain line of a stage that lasts.
func (s *Stage) announce() {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if slices.Contains(s.p.active, s) {
		s.said = true
		s.p.line(clean(s.what, false) + "...")
	}
}

// status is the text of the live line. What can best be missed comes last.
func (s *Stage) status() string {
	text := fmt.Sprintf("%s (%s", s.what, elapsed(time.Since(s.begin)))
	if !s.since.IsZero() {
		text += ", " + size(s.done)
		if s.total > 0 {
			text += " of " + size(s.total)
		}
		if took := time.Since(s.since); took >= time.Second && s.done > s.base {
			text += ", " + size(int64(float64(s.done-s.base)/took.Seconds())) + "/s"
		}
	}
	text += ")"
	if s.detail != "" {
		text += " " + s.detail
	}
	return text
}
