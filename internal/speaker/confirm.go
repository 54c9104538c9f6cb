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

// questions bounds how many questions a suspect is asked at once
// (docs/design/confirmation.md).
const questions = 4

// Confirm asks the suspect's kernel on every segment where it announces and we
// have an interface. It is Silent when it could be asked and did not answer
// anywhere.
func (c Confirmer) Confirm(ctx context.Context, suspect election.Member) election.Reply {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan election.Reply, questions)
	asked := 0
	for q := range election.Shared(c.link.Interfaces(), suspect.Interfaces) {
		asked++
		go func() {
			switch answered, err := c.link.Probe(ctx, q.Interface, q.Target, q.MAC); {
			case err != nil:
				answers <- election.Unknown
			case answered:
				answers <- election.Answers
			default:
				answers <- election.Silent
			}
		}()
		if asked == questions {
			break
		}
	}
	verdict := election.Unknown
	for range asked {
		switch v := <-answers; v {
		case election.Answers:
			return v
		case election.Silent:
			verdict = v
		}
	}
	return verdict
}
