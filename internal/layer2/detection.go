package layer2

import (
	"net/netip"
	"slices"
	"time"
)

// DetectionTiming says how patiently to ask whether anybody uses an address. A
// detection within the budget lasts at most Wait + (Probes-1)*Max + Settle.
type DetectionTiming struct {
	// Wait is the longest random wait before the first probe.
	Wait time.Duration
	// Probes is how often to ask.
	Probes int
	// Min and Max bound the random time between two probes.
	Min, Max time.Duration
	// Settle is how long to listen after the last probe.
	Settle time.Duration
}

// RFC5227Timing is that of RFC 5227 section 1.1, made for home networks in
// which everything is switched on at once: four to seven seconds.
var RFC5227Timing = DetectionTiming{Wait: time.Second, Probes: 3, Min: time.Second, Max: 2 * time.Second, Settle: 2 * time.Second}

// ServiceTiming asks as often in half a second. Stations of a data center
// answer within milliseconds; one that does not is heard later, since a claimed
// address is watched for as long as it is claimed (docs/design/announcing.md).
var ServiceTiming = DetectionTiming{Wait: 50 * time.Millisecond, Probes: 3, Min: 100 * time.Millisecond, Max: 150 * time.Millisecond, Settle: 200 * time.Millisecond}

// A Detection finds out which of some addresses are in use on a segment before
// they are claimed there for the first time: by ARP probes (RFC 5227 section
// 2.1) and by duplicate address detection (RFC 4862 section 5.4), which differ
// in their packets only.
//
// It is driven: Next returns which addresses to probe and when to ask again,
// Hear takes in what others were heard to do.
type Detection struct {
	timing  DetectionTiming
	pace    Pace
	random  func() float64
	full    time.Time
	pending []*suspect
	found   []Heard
}

type suspect struct {
	address netip.Addr
	sent    int
	due     time.Time
}

// NewDetection begins at now. Probes keep to the pace's rate; random returns
// numbers in [0,1).
func NewDetection(now time.Time, addresses []netip.Addr, timing DetectionTiming, pace Pace, random func() float64) *Detection {
	pace.Rate = max(1, pace.Rate)
	d := &Detection{timing: timing, pace: pace, random: random}
	for _, a := range addresses {
		d.pending = append(d.pending, &suspect{address: a, due: now.Add(d.between(0, timing.Wait))})
	}
	return d
}

func (d *Detection) between(low, high time.Duration) time.Duration {
	return low + time.Duration(d.random()*float64(high-low))
}

// Next returns the addresses to probe at now, and when to ask again. The zero
// time says that the detection is over.
func (d *Detection) Next(now time.Time) (probe []netip.Addr, wake time.Time) {
	d.pending = slices.DeleteFunc(d.pending, func(s *suspect) bool {
		return !s.due.After(now) && s.sent == d.timing.Probes // nobody said a word: the address is free
	})
	for _, s := range d.pending {
		if at := d.pace.permits(d.full); !s.due.After(now) && at.After(now) {
			s.due = at
		} else if !s.due.After(now) {
			d.full = d.pace.spend(d.full, now)
			probe = append(probe, s.address)
			if s.sent++; s.sent == d.timing.Probes {
				s.due = now.Add(d.timing.Settle)
			} else {
				s.due = now.Add(d.between(d.timing.Min, d.timing.Max))
			}
		}
		if wake.IsZero() || s.due.Before(wake) {
			wake = s.due
		}
	}
	return probe, wake
}

// Hear takes in another station's use of an address. Any counts, a probe as well:
// of two that probe for one address neither may take it (RFC 5227 section
// 2.1.1, RFC 4862 section 5.4.3).
func (d *Detection) Hear(h Heard) {
	if i := slices.IndexFunc(d.pending, func(s *suspect) bool { return s.address == h.Address }); i >= 0 {
		d.found = append(d.found, h)
		d.pending = slices.Delete(d.pending, i, i+1)
	}
}

// Found returns by what each address that is in use was found to be, in order
// of discovery; at most one per address.
func (d *Detection) Found() []Heard { return d.found }
