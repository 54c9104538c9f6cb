package speaker

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/digest"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
	"github.com/belfrylb/belfry/internal/ranges"
)

// A topic is what addresses are told together by: what has become of them, and why.
type topic struct{ verb, cause string }

// Topics, but for those of transitions.
const (
	verbGivenUp = "given up by another speaker"
	verbUsed    = "used by a foreign station"
	verbTaken   = "used by another node"
	verbHeld    = "withheld"
	verbWrong   = "verified wrong"
	verbRight   = "verified again"
)

// A move is what the log tells of one address: a Transition of it, or what is told in the
// same terms. Lasted is how long a fault of it has lasted.
type move struct {
	core.Transition
	lasted time.Duration
}

// verbs are those of transitions.
var verbs = map[core.Kind]string{
	core.Acquired: "acquired", core.HandedOver: "handed over", core.Released: "released", core.Withheld: verbHeld,
}

// level is Warn for what a person should look into.
func (t topic) level() slog.Level {
	if slices.Contains([]string{verbUsed, verbTaken, verbHeld, verbWrong}, t.verb) {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// moved has the log say what has become of addresses: of single ones at once, of many
// together.
func (s *Speaker) moved(now time.Time, e core.Effects) {
	for _, t := range e.Transitions {
		s.moves.Add(topic{verbs[t.Kind], t.Cause.String()}, move{Transition: t})
	}
	for _, a := range e.Won {
		s.moves.Add(topic{verb: verbGivenUp}, move{Transition: core.Transition{Address: a}})
	}
	for _, c := range e.Conflicts {
		switch {
		case c.Withheld: // it is a transition
		case c.Node == "":
			s.moves.Add(topic{verb: verbUsed}, move{Transition: core.Transition{Address: c.Address, Station: c.MAC}})
		default:
			s.moves.Add(topic{verb: verbTaken}, move{Transition: core.Transition{Address: c.Address, Station: c.MAC, From: c.Node}})
		}
	}
	for _, f := range e.Faults {
		s.faulted(f)
	}
	s.tellMoves(s.moves.Take(now))
}

// faulted has it say what the segment answers for an address: from whom, instead of whom.
func (s *Speaker) faulted(f proof.Change) {
	of := topic{verbWrong, f.Kind.String()}
	if f.Ended {
		of.verb = verbRight
	}
	told := move{Transition: core.Transition{Address: f.Address, To: f.Owner}, lasted: f.Lasted}
	s.moves.Add(of, told)
	for _, by := range f.By {
		if by.Node != f.Owner {
			told.From, told.Station = by.Node, by.MAC
			s.moves.Add(of, told)
		}
	}
}

func (s *Speaker) tellMoves(bursts []digest.Burst[topic, move]) {
	for _, b := range bursts {
		message, attributes := line(b.Kind, b.Facts)
		s.log.LogAttrs(context.Background(), b.Kind.level(), message, attributes...)
	}
}

// line says in one line what has become of addresses.
func line(of topic, facts []move) (string, []slog.Attr) {
	var (
		addresses          []netip.Addr
		from, to, stations []string
		silence, held      time.Duration
		lasted             time.Duration
	)
	for _, t := range facts {
		addresses = append(addresses, t.Address)
		from, to = append(from, t.From), append(to, t.To)
		if t.Station != (lb.MAC{}) {
			stations = append(stations, t.Station.String())
		}
		silence, held, lasted = max(silence, t.Silence), max(held, t.Held), max(lasted, t.lasted)
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	addresses = slices.Compact(addresses)
	message, attributes := "address "+of.verb, []slog.Attr{slog.String("address", addresses[0].String())}
	if len(addresses) > 1 {
		message, attributes = "addresses "+of.verb, []slog.Attr{
			slog.Int("count", len(addresses)), slog.String("addresses", digest.Few(ranges.Format(addresses))),
		}
	}
	return message, slices.DeleteFunc(append(attributes,
		slog.String("cause", of.cause), slog.String("from", each(from)), slog.String("to", each(to)), slog.String("mac", each(stations)),
		slog.Duration("silence", silence.Round(time.Millisecond)), slog.Duration("held", held.Round(time.Millisecond)),
		slog.Duration("lasted", lasted.Round(time.Millisecond)),
	), func(a slog.Attr) bool {
		return a.Value.Equal(slog.StringValue("")) || a.Value.Equal(slog.DurationValue(0))
	})
}

// each names each of some once; empty stands for none.
func each(some []string) string {
	slices.Sort(some)
	return digest.Few(slices.DeleteFunc(slices.Compact(some), func(s string) bool { return s == "" }))
}

// earlier returns the earlier of two times; zero is never.
func earlier(a, b time.Time) time.Time {
	switch {
	case a.IsZero():
		return b
	case b.IsZero() || a.Before(b):
		return a
	default:
		return b
	}
}
