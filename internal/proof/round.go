package proof

import (
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// An Answer is a station's answer to a question.
type Answer struct {
	Address netip.Addr
	MAC     lb.MAC
	// After is how long after the first question it came.
	After time.Duration
}

// A Question asks on one segment for addresses of either family, as a client would.
type Question struct {
	// Interface is ours, by its index.
	Interface int
	Targets   []Target
	// Window is how long to listen for answers after the last question.
	Window time.Duration
	// Requested is set where somebody wants to know all answers.
	Requested bool
}

// Addresses returns what is asked for.
func (q Question) Addresses() []netip.Addr {
	out := make([]netip.Addr, len(q.Targets))
	for i, t := range q.Targets {
		out[i] = t.Address
	}
	return out
}

// A Target is an address that is asked for, and how patiently.
type Target struct {
	Address netip.Addr
	Patience
}

// A Patience says how often to ask.
type Patience uint8

// Patiences.
const (
	// UntilAnswered: Repeats times, or until a station answers.
	UntilAnswered Patience = iota
	// Once: silence is what is expected.
	Once
	// Throughout: Repeats times, whatever is answered, since an answer that is lost must
	// not look like one that is not given.
	Throughout
)

// Repeats is how often an address is asked for until it is called unanswered
// (docs/design/proof.md).
const Repeats = 3

// A Round puts one Question, and takes in all answers until its end.
//
// It is driven: Next returns which addresses to ask for, Hear takes in an answer.
type Round struct {
	question Question
	start    time.Time
	asked    int       // How often.
	last     time.Time // When the last question left.
	answers  []Answer
	heard    map[voiced]bool
}

// voiced is that a station has answered for an address.
type voiced struct {
	address netip.Addr
	mac     lb.MAC
}

// NewRound begins at now.
func NewRound(now time.Time, q Question) *Round {
	return &Round{question: q, start: now, heard: map[voiced]bool{}}
}

// Next returns the addresses to ask for at now, and when to ask again. The zero time
// says that the round is over.
func (r *Round) Next(now time.Time) (ask []netip.Addr, wake time.Time) {
	if r.asked < Repeats && !now.Before(r.due()) {
		for _, t := range r.question.Targets {
			if r.asked == 0 || t.Patience == Throughout || t.Patience == UntilAnswered && !r.answered(t.Address) {
				ask = append(ask, t.Address)
			}
		}
		if r.asked++; len(ask) > 0 {
			r.last = now
		}
	}
	end := r.last.Add(r.question.Window)
	switch {
	case r.asked < Repeats && r.due().Before(end):
		return ask, r.due()
	case now.Before(end):
		return ask, end
	default:
		return nil, time.Time{}
	}
}

// due returns when the next question is.
func (r *Round) due() time.Time {
	return r.start.Add(time.Duration(r.asked) * r.question.Window * 2 / 3)
}

func (r *Round) answered(a netip.Addr) bool {
	return slices.ContainsFunc(r.answers, func(h Answer) bool { return h.Address == a })
}

// Hear takes in that a station answered for an address.
func (r *Round) Hear(now time.Time, a netip.Addr, mac lb.MAC) {
	if r.heard[voiced{a, mac}] || len(r.answers) == answersMost || !slices.ContainsFunc(r.question.Targets, func(t Target) bool { return t.Address == a }) {
		return
	}
	r.heard[voiced{a, mac}] = true
	r.answers = append(r.answers, Answer{a, mac, now.Sub(r.start)})
}

// answersMost bounds the answers to a Question that are kept (docs/design/proof.md).
const answersMost = 4096

// Answers returns all answers so far, each station's once, in the order in which they
// came.
func (r *Round) Answers() []Answer { return r.answers }
