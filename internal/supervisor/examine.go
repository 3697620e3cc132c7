package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// How a guest that was thawed is examined.
const (
	// examinePatience bounds the whole. It takes half a second, on a busy host several.
	examinePatience = 30 * time.Second
	// clockTrial is the time over which the guest's clock is compared with the host's.
	clockTrial = 200 * time.Millisecond
	// clockDrift is by what part the two may differ. What a kernel finds out about its
	// processor's clock when it boots is not exact where the host is busy.
	clockDrift = 0.1
	// clockError is how far the guest's time may be from the host's.
	clockError = time.Second
	// leastPages is how many pages of the guest's memory must have been compared for that
	// to say anything. There are more than a thousand.
	leastPages = 100
)

// A look is what a guest said of itself at some moment between asked and told.
type look struct {
	asked, told time.Time
	guestapi.Examination
}

// Examine implements control.Supervisor.
func (s *supervisor) Examine(ctx context.Context, request control.ExamineRequest) error {
	ctx, cancel := context.WithTimeout(ctx, examinePatience)
	defer cancel()
	if request.Noted.IsZero() {
		_, err := s.look(ctx, true)
		return err
	}
	// It hears the time now: what it was told first may have been on its way for long.
	sent, clock := time.Now(), guestapi.ClockNow()
	if err := s.guest.ask(ctx, guestapi.Request{Clock: &clock}); err != nil {
		return err
	}
	late := time.Since(sent)
	// The first one compares the memory, which takes a while; clocks want short ones.
	var looks [3]look
	for i := range looks {
		if i == len(looks)-1 {
			time.Sleep(clockTrial)
		}
		var err error
		if looks[i], err = s.look(ctx, false); err != nil {
			return err
		}
	}
	s.log.Info("examined", "pages", looks[0].Pages, "damaged", looks[0].Damaged, "took", time.Since(sent).Round(time.Millisecond))
	return judge(looks, request.Noted, late)
}

func (s *supervisor) look(ctx context.Context, note bool) (l look, err error) {
	l.asked = time.Now()
	reply, err := s.guest.inquire(ctx, guestapi.Request{Examine: &guestapi.Examine{Note: note}})
	l.told = time.Now()
	switch {
	case err != nil:
		return l, err
	case reply.Examination == nil:
		return l, errors.New("the guest does not say what it finds")
	}
	l.Examination = *reply.Examination
	return l, nil
}

// judge returns what is wrong with a guest that was looked at, given when it had noted what
// it is, and by how much it may have heard the time too late. Hosts are busy: only that
// counts against a guest which no delay between it and the host explains.
func judge(looks [3]look, noted time.Time, late time.Duration) error {
	memory, from, to := looks[0], looks[1], looks[2]
	for _, l := range looks {
		if complaint := l.Complaint.String(); complaint != "" {
			return fmt.Errorf("its kernel complains: %s", complaint)
		}
	}
	switch {
	case memory.Damaged > 0:
		return fmt.Errorf("of %d pages of its memory %d have changed", memory.Pages, memory.Damaged)
	case memory.Pages < leastPages:
		return fmt.Errorf("only %d pages of its memory could be compared", memory.Pages)
	}
	// A clock of another speed is not where it should be either.
	least, most := to.asked.Sub(from.told), to.told.Sub(from.asked)
	if passed := to.Monotonic - from.Monotonic; float64(passed) < float64(least)*(1-clockDrift) || float64(passed) > float64(most)*(1+clockDrift) {
		return fmt.Errorf("its clock does not go as the host's: by %v in %v", seconds(passed), seconds(least))
	}
	// It stood still while it was frozen, and no longer than that.
	if most := to.told.Sub(noted); from.Monotonic < 0 || float64(to.Monotonic) > float64(most)*(1+clockDrift) {
		return fmt.Errorf("its clock has jumped: it went on by %v in %v", seconds(to.Monotonic), seconds(most))
	}
	shown := time.Unix(0, to.UnixNano)
	if shown.Before(to.asked.Add(-late-clockError)) || shown.After(to.told.Add(clockError)) {
		return fmt.Errorf("its clock shows another time, by %v", seconds(shown.Sub(to.told)))
	}
	return nil
}

// seconds is a time as people read it.
func seconds(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
