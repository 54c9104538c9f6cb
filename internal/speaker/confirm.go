package speaker

import (
	"context"
	"net/netip"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// A Prober asks a station for an address of its own, on the segment of an
// interface; an error says that it could not be asked.
type Prober interface {
	Interfaces() []lb.Interface
	Probe(ctx context.Context, ifindex int, target netip.Addr, mac lb.MAC) (bool, error)
}

// A Confirmer asks suspects on the segments that this node shares with them.
type Confirmer struct{ link Prober }

// NewConfirmer returns a Confirmer.
func NewConfirmer(link Prober) Confirmer { return Confirmer{link} }

// questions bounds how many questions the kernel of a suspect, and its speaker, are
// asked at once (docs/design/confirmation.md).
const questions = 4

// Confirm asks the suspect on every segment where it announces and we have an
// interface: its kernel for an address of its own, and its speaker for one that it
// claims. The reply is what any of them says of it that is most: Speaks at once,
// Answers once its speaker has kept silent, and Silent when its kernel could be asked
// and did not answer anywhere. Of a member that is missed any answer will do, at once.
func (c Confirmer) Confirm(ctx context.Context, q election.Question) election.Reply {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ours := c.link.Interfaces()
	answers := make(chan election.Reply, 2*questions)
	ask := func(qs func(func(election.SegmentQuestion) bool), answered, silent election.Reply) (asked int) {
		for q := range qs {
			asked++
			go func() {
				switch is, err := c.link.Probe(ctx, q.Interface, q.Target, q.MAC); {
				case err != nil:
					answers <- election.Unknown
				case is:
					answers <- answered
				default:
					answers <- silent
				}
			}()
			if asked == questions {
				break
			}
		}
		return asked
	}
	left := ask(election.Voices(ours, q.Suspect, q.Round), election.Speaks, election.Unknown)
	left += ask(election.Shared(ours, q.Suspect), election.Answers, election.Silent)
	reply := election.Unknown
	for ; left > 0 && reply != election.Speaks && !(q.Missed && reply == election.Answers); left-- {
		reply = max(reply, <-answers)
	}
	return reply
}
