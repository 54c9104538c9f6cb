package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
)

// Ask puts a question on the segment of an interface, as a client would: to all
// stations. It returns every answer that came until the end of the question's window,
// those to questions for IPv4 addresses first.
func (l *Link) Ask(ctx context.Context, q proof.Question) ([]proof.Answer, error) {
	i, ok := l.station.Load().Interface(q.Interface)
	if !ok {
		return nil, fmt.Errorf("ask: no interface %d", q.Interface)
	}
	if f := i.Fault(); f != lb.InterfaceOK {
		return nil, fmt.Errorf("ask on %s: interface is %v", i.Name, f)
	}
	var (
		asking  sync.WaitGroup
		answers [2][]proof.Answer // IPv4, IPv6
		failed  [2]error
	)
	for n, family := range [...]lb.Family{lb.IPv4, lb.IPv6} {
		part := proof.Question{Interface: q.Interface, Window: q.Window}
		var ranges []lb.AddressRange
		for _, t := range q.Targets {
			if lb.FamilyOf(t.Address) == family {
				part.Targets = append(part.Targets, t)
				ranges = append(ranges, lb.AddressRange{First: t.Address, Last: t.Address})
			}
		}
		if len(part.Targets) == 0 {
			continue
		}
		s, err := openInquiry(i.Index, merge(ranges))
		if err != nil {
			failed[n] = err
			continue
		}
		asking.Go(func() {
			defer s.close()
			answers[n], failed[n] = s.ask(ctx, i, part)
		})
	}
	asking.Wait()
	if err := errors.Join(failed[:]...); err != nil {
		return nil, fmt.Errorf("ask on %s: %w", i.Name, err)
	}
	return append(answers[0], answers[1]...), nil
}

// ask asks for addresses of one family.
func (s *socket) ask(ctx context.Context, i lb.Interface, q proof.Question) ([]proof.Answer, error) {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	round := proof.NewRound(time.Now(), q)
	buffer := make([]byte, 2048)
	for {
		ask, wake := round.Next(time.Now())
		for _, a := range ask {
			if err := s.send(questionFor(i, a, lb.MAC{})); err != nil {
				return nil, fmt.Errorf("for %v: %w", a, err)
			}
		}
		if wake.IsZero() {
			return round.Answers(), nil
		}
		if err := s.conn.SetReadDeadline(wake); err != nil {
			return nil, err
		}
		if err := s.until(ctx, buffer, func(frame []byte, at time.Time) {
			if a, by, is := answerIn(frame, i); is {
				round.Hear(at, a, by)
			}
		}); err != nil {
			return nil, err
		}
	}
}

// until hands each frame, and when it came, to hear until the read deadline, and then
// what has come already: perhaps it was us who did not get to run.
func (s *socket) until(ctx context.Context, buffer []byte, hear func([]byte, time.Time)) error {
	for late := false; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		read := s.next
		if late {
			read = s.waiting
		}
		frame, at, err := read(buffer)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			late = true
		case err != nil:
			return err
		case late && frame == nil:
			return nil
		default:
			hear(frame, at)
		}
	}
}

// answerIn reads a frame that answers a question from an interface: who has which
// address. What a station announces unasked, or asks itself, is none; but a question
// from no address, as of an interface without one, is answered to all (RFC 4861
// section 7.2.4).
func answerIn(frame []byte, i lb.Interface) (a netip.Addr, by lb.MAC, is bool) {
	if p, m := parseARP(frame); m == wellFormed {
		return p.sender, p.senderMAC, !p.request && p.targetMAC == i.MAC
	}
	if n, m := parseNDP(frame); m == wellFormed {
		return n.target, n.mac, !n.solicitation && (n.solicited || n.destination == allNodes && !sourceFor(i, n.target).IsValid())
	}
	return a, by, false
}
