package accept

import "sync"

// A Budget bounds how many things of a kind are held at one time, in all and by one
// source. All methods may be called from any goroutine.
type Budget struct {
	limit, share, kept int

	mu      sync.Mutex
	held    int
	others  int // of held, by those for whom nothing is kept
	sources map[string]int
}

// NewBudget returns a budget of limit things in all, of which one source may hold share.
// The smallest of either is 1.
func NewBudget(limit, share int) *Budget {
	limit = max(limit, 1)
	return &Budget{limit: limit, share: min(max(share, 1), limit), sources: map[string]int{}}
}

// KeepOwn keeps n of the limit, less than all, for this process's own user, where the
// system tells users apart: others hold the rest at the most, however many they are. It
// is called before the first Take.
func (b *Budget) KeepOwn(n int) { b.kept = min(max(n, 0), b.limit-1) }

// Take takes one for source, or reports that there is none for it.
func (b *Budget) Take(source string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	share := b.share
	if source == nobody {
		share = max(share/nobodysPart, 1)
	}
	if b.held >= b.limit || b.sources[source] >= share {
		return false
	}
	if !own(source) {
		if b.others >= b.limit-b.kept {
			return false
		}
		b.others++
	}
	b.held++
	b.sources[source]++
	return true
}

// Give gives back one that was taken for source.
func (b *Budget) Give(source string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held--
	if !own(source) {
		b.others--
	}
	if b.sources[source]--; b.sources[source] == 0 {
		delete(b.sources, source)
	}
}

// Held returns how many are held.
func (b *Budget) Held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held
}

// takeAll takes one of each budget, or none.
func takeAll(budgets []*Budget, source string) bool {
	for i, b := range budgets {
		if !b.Take(source) {
			giveAll(budgets[:i], source)
			return false
		}
	}
	return true
}

func giveAll(budgets []*Budget, source string) {
	for _, b := range budgets {
		b.Give(source)
	}
}
