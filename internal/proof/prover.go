package proof

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// Where these are from: docs/design/proof.md.
const (
	// again is how long after an unexpected result the address is asked for a second
	// time, before that is told.
	again = time.Second
	// In so many rounds in a row something unexpected is found before it is told:
	// another station, silence, or only speakers beside each other.
	roundsOfOthers, roundsOfSilence, roundsOfSpeakers = 2, 3, 5
	// recheck is how long after a fault was told the address is asked for again, and
	// after a round that found out nothing; retry after one that could not be put, or
	// while the owner's speaker is suspected.
	recheck = 30 * time.Second
	retry   = 5 * time.Second
	// urgentRate is how many addresses a second all askers of a segment together ask
	// for after an acquisition, and rareRate otherwise.
	urgentRate, rareRate = 500, 20
	// byMost bounds the stations of a Result.
	byMost = 16
	// batchMost bounds the addresses of one Question.
	batchMost = 20
	// windowLeast and windowMost bound how long answers are listened for: twice as
	// long as the slowest of the segment took lately.
	windowLeast, windowMost = 150 * time.Millisecond, time.Second
)

// A Subject is an address to ask for.
type Subject struct {
	Address netip.Addr
	// Owner is the node that answers for it, and Since is when that began; zero for
	// long ago.
	Owner string
	Since time.Time
	// Interface is ours on the segment of the address, by its index.
	Interface int
	// Control is an address of the owner's kernel on that segment; the zero Addr for
	// none, as for what this node owns itself.
	Control netip.Addr
}

// same reports whether what was found out about one Subject is true of another.
func (s Subject) same(o Subject) bool {
	return s.Owner == o.Owner && s.Since.Equal(o.Since) && s.Interface == o.Interface
}

// A Kind says what the segment answers to the question for an address.
type Kind uint8

// Kinds of results.
const (
	// Unknown: nothing was found out.
	Unknown Kind = iota
	// Verified: the owner answers, and no other station does.
	Verified
	// AnsweredTwice: a station answers that is not the one by which the owner does.
	AnsweredTwice
	// Unanswered: no station answers, although the owner's kernel does for its own address.
	Unanswered
)

// Kinds are all kinds but Unknown, for metrics.
var Kinds = [...]Kind{Verified, AnsweredTwice, Unanswered}

// String returns the kind as metrics and conditions spell it.
func (k Kind) String() string {
	return [...]string{"Unknown", "Verified", "AnsweredTwice", "Unanswered"}[k]
}

// A Voice says what of a node answers.
type Voice uint8

// Voices.
const (
	// Stranger: a foreign station; it is no Node's.
	Stranger Voice = iota
	// Speaker: the node's speaker claims the address.
	Speaker
	// Kernel: the node's speaker does not claim it, so its kernel answers.
	Kernel
	// Silent: the node's speaker is not heard by gossip. It or its kernel answers.
	Silent
)

var voices = [...]string{"Stranger", "Speaker", "Kernel", "Unheard"}

// String returns the voice as a status spells it.
func (v Voice) String() string { return voices[v] }

// ParseVoice reads what String returns. What it does not know is a Stranger.
func ParseVoice(text string) Voice { return Voice(max(0, slices.Index(voices[:], text))) }

// A Station is who answers.
type Station struct {
	MAC lb.MAC
	// Node is whose station it is, empty for a foreign one.
	Node  string
	Voice Voice
}

// A Result is what was found out about a Subject.
type Result struct {
	Address netip.Addr
	Owner   string
	Kind    Kind
	// Since is when that was found out first, and By who answers; both of faults only.
	Since time.Time
	By    []Station
}

// Equal reports whether two results say the same.
func (v Result) Equal(o Result) bool {
	return v.Address == o.Address && v.Owner == o.Owner && v.Kind == o.Kind && slices.Equal(v.By, o.By)
}

// A Change is a fault that began, or ended while the owner is the same.
type Change struct {
	// Result is the fault's.
	Result
	// Ended is set when the owner alone answers again, Lasted after it was found.
	Ended  bool
	Lasted time.Duration
}

// A Prover decides when a node asks for which addresses, and what the answers mean.
//
// It is driven: Set says what there is to ask for, Next what to ask now, Answer what
// came back. Times never run back.
type Prover struct {
	node  string
	every time.Duration
	// cases are ascending by address; stale is set when some may be due before wake.
	cases []*inquest
	stale bool
	wake  time.Time // Zero for never.
	// askers is how many nodes share the rates of a segment, and lines says when each
	// line may move on.
	askers int
	lines  map[line]time.Time
	slow   map[int]time.Duration // By interface: the slowest answer lately.
	news   bool
	// changes are those that Changes has not returned yet.
	changes []Change
}

// A line is of the cases of one segment that wait for their turn. It moves on when
// what was let through is paid for.
type line struct {
	ifindex int
	rare    bool
}

// An inquest is what is known about a Subject.
type inquest struct {
	Subject
	due    time.Time
	asking bool
	rare   bool
	// doubts is how many rounds in a row had another result than the expected one, and
	// thorough is set when something was heard that is to be looked into.
	doubts   int
	thorough bool
	result   Result
	// fewer is set once a round has heard fewer stations than the result names.
	fewer bool
}

// NewProver returns a Prover of a node that asks for each address every so often
// after it was verified.
func NewProver(node string, every time.Duration) *Prover {
	return &Prover{node: node, every: every, lines: map[line]time.Time{}, slow: map[int]time.Duration{}}
}

// Set says for what to ask, ascending by address, all of it, and how many nodes ask on
// this node's segments. What is known of a Subject that was there already is kept.
func (p *Prover) Set(now time.Time, subjects []Subject, askers int) {
	before := p.cases
	p.cases = make([]*inquest, 0, len(subjects))
	p.askers, p.stale = max(1, askers), true
	for _, s := range subjects {
		for len(before) > 0 && before[0].Address.Less(s.Address) {
			p.news = p.news || before[0].result.Kind != Unknown
			before = before[1:]
		}
		if len(before) > 0 && before[0].Address == s.Address && before[0].same(s) {
			before[0].Subject = s
			p.cases = append(p.cases, before[0])
			before = before[1:]
			continue
		}
		p.cases = append(p.cases, &inquest{Subject: s, due: now, rare: s.Since.IsZero(), result: Result{Address: s.Address, Owner: s.Owner}})
	}
	for _, c := range before {
		p.news = p.news || c.result.Kind != Unknown
	}
}

// Recheck has an address asked for soon, as something was heard of it.
func (p *Prover) Recheck(now time.Time, a netip.Addr) {
	if c := p.find(a); c != nil && c.doubts == 0 && c.result.Kind <= Verified {
		c.due, c.thorough, c.rare, p.stale = now, true, false, true
	}
}

func (p *Prover) find(a netip.Addr) *inquest {
	i, found := slices.BinarySearchFunc(p.cases, a, func(c *inquest, a netip.Addr) int { return c.Address.Compare(a) })
	if !found {
		return nil
	}
	return p.cases[i]
}

// Next returns the questions to put now, and when to call it again; zero for never.
func (p *Prover) Next(now time.Time) (ask []Question, wake time.Time) {
	if !p.stale && (p.wake.IsZero() || now.Before(p.wake)) {
		return nil, p.wake
	}
	p.stale, p.wake = false, time.Time{}
	waiting := map[line][]*inquest{}
	for _, c := range p.cases {
		switch {
		case c.asking:
		case c.due.After(now):
			p.sooner(c.due)
		default:
			l := line{c.Interface, c.rare}
			waiting[l] = append(waiting[l], c)
		}
	}
	lines := make([]line, 0, len(waiting))
	for l := range waiting {
		lines = append(lines, l)
	}
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Or(cmp.Compare(a.ifindex, b.ifindex), cmp.Compare(btoi(a.rare), btoi(b.rare)))
	})
	for _, l := range lines {
		if until := p.lines[l]; now.Before(until) {
			p.sooner(until)
			continue
		}
		q := p.question(now, l, waiting[l])
		ask = append(ask, q)
		rate := urgentRate
		if l.rare {
			rate = rareRate
		}
		until := now.Add(time.Duration(len(q.Targets)*p.askers) * time.Second / time.Duration(rate))
		if p.lines[l] = until; len(waiting[l]) > batchMost {
			p.sooner(until)
		}
	}
	return ask, p.wake
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (p *Prover) sooner(t time.Time) {
	if p.wake.IsZero() || t.Before(p.wake) {
		p.wake = t
	}
}

// question takes the first in a line: those that others own, as their Services wait to
// be told, and of these the ones that wait longest.
func (p *Prover) question(now time.Time, l line, waiting []*inquest) Question {
	own := func(c *inquest) int { return btoi(c.Owner == p.node) }
	slices.SortFunc(waiting, func(a, b *inquest) int {
		return cmp.Or(cmp.Compare(own(a), own(b)), a.due.Compare(b.due), a.Address.Compare(b.Address))
	})
	q := Question{Interface: l.ifindex, Window: min(max(2*p.slow[l.ifindex], windowLeast), windowMost)}
	controls := map[netip.Addr]bool{}
	for _, c := range waiting[:min(len(waiting), batchMost)] {
		c.asking = true
		switch {
		case c.doubts > 0 || c.thorough || c.result.Kind > Verified:
			q.Targets = append(q.Targets, Target{c.Address, Throughout})
			if c.Control.IsValid() && !controls[c.Control] {
				controls[c.Control] = true
				q.Targets = append(q.Targets, Target{c.Control, UntilAnswered})
			}
		case c.Owner == p.node:
			q.Targets = append(q.Targets, Target{c.Address, Once})
		default:
			q.Targets = append(q.Targets, Target{c.Address, UntilAnswered})
		}
	}
	return q
}

// Answer takes in what came of a question: all answers, or failed if it could not be
// put. Whose says of a station with an address whose it is; well says of a node that
// its speaker is heard, so that what is found out about its addresses counts.
func (p *Prover) Answer(now time.Time, q Question, answers []Answer, failed bool, whose func(lb.MAC, netip.Addr) (node string, voice Voice), well func(node string) bool) {
	by := make(map[netip.Addr][]Station, len(q.Targets))
	p.slow[q.Interface] -= p.slow[q.Interface] / 8
	for _, h := range answers {
		p.slow[q.Interface] = max(p.slow[q.Interface], h.After)
		node, voice := whose(h.MAC, h.Address)
		by[h.Address] = append(by[h.Address], Station{h.MAC, node, voice})
	}
	p.stale = true
	for _, a := range q.Addresses() {
		c := p.find(a)
		if c == nil || !c.asking || c.Interface != q.Interface {
			continue // a control's alone, or another owner's by now
		}
		c.asking = false
		if failed || !well(c.Owner) {
			c.due, c.rare = now.Add(retry), true
			continue
		}
		p.settle(now, c, p.judge(c.Subject, by), by[a])
	}
}

// judge says what the answers to the question for a Subject mean.
func (p *Prover) judge(s Subject, by map[netip.Addr][]Station) Kind {
	owner, others := 0, 0
	for _, h := range by[s.Address] {
		if h.Node == s.Owner {
			owner++
		} else {
			others++
		}
	}
	switch {
	case owner == 0 && s.Owner != p.node && ofSpeakers(by[s.Address]):
		return Unknown // one of them may own the address by now, of which we have not heard
	case others > 0 || owner > 1:
		return AnsweredTwice
	case owner == 1 || s.Owner == p.node:
		return Verified
	case s.Control.IsValid() && by[s.Control] == nil:
		return Unknown
	default:
		return Unanswered
	}
}

// roundsOf returns in how many rounds in a row something else than the expected has to
// be found before it is told. Where speakers alone are in each other's way, they are
// given the time that they take to settle it; silence may be loss.
func roundsOf(kind Kind, by []Station, owner string) int {
	others := slices.DeleteFunc(slices.Clone(by), func(h Station) bool { return h.Node == owner })
	switch {
	case kind == AnsweredTwice && ofSpeakers(others):
		return roundsOfSpeakers
	case kind == Unanswered:
		return roundsOfSilence
	}
	return roundsOfOthers
}

// ofSpeakers reports whether some stations, at least one, are those of speakers, or may
// be.
func ofSpeakers(by []Station) bool {
	return len(by) > 0 && !slices.ContainsFunc(by, func(h Station) bool { return h.Voice != Speaker && h.Voice != Silent })
}

// settle draws the conclusion.
func (p *Prover) settle(now time.Time, c *inquest, kind Kind, by []Station) {
	if kind == Verified {
		c.doubts = 0
	} else if c.doubts++; c.doubts < roundsOf(kind, by, c.Owner) && c.result.Kind <= Verified {
		c.due, c.rare = now.Add(again), false
		return
	}
	is := Result{Address: c.Address, Owner: c.Owner, Kind: kind}
	c.doubts, c.thorough, c.rare, c.due = 0, false, true, now.Add(p.every)
	if kind != Verified {
		c.due = now.Add(min(recheck, p.every))
	}
	if kind > Verified {
		other := func(s Station) int { return btoi(s.Node != c.Owner) }
		slices.SortFunc(by, func(a, b Station) int {
			return cmp.Or(cmp.Compare(other(a), other(b)), cmp.Compare(a.Node, b.Node), slices.Compare(a.MAC[:], b.MAC[:]))
		})
		is.Since, is.By = now, by[:min(len(by), byMost)]
	}
	// That one station less is heard may be a lost frame.
	lost := kind == c.result.Kind && !slices.ContainsFunc(is.By, func(s Station) bool { return !slices.Contains(c.result.By, s) }) && len(is.By) < len(c.result.By)
	if c.fewer = lost && !c.fewer; c.fewer {
		return
	}
	if was := c.result; was.Kind > Verified && kind == Verified {
		p.changes = append(p.changes, Change{Result: was, Ended: true, Lasted: now.Sub(was.Since)})
	} else if kind > Verified && kind != was.Kind {
		p.changes = append(p.changes, Change{Result: is})
	}
	if kind == Verified && c.Owner == p.node {
		is.Kind = Unknown // others say whether they hear it
	}
	if !is.Equal(c.result) {
		if is.Kind == c.result.Kind {
			is.Since = c.result.Since
		}
		c.result, p.news = is, true
	}
}

// News reports whether Results returns something else than when News was asked last.
func (p *Prover) News() bool {
	news := p.news
	p.news = false
	return news
}

// Changes returns the faults that began or ended since it was called last.
func (p *Prover) Changes() []Change {
	out := p.changes
	p.changes = nil
	return out
}

// Results returns what is known, ascending by address. What is Unknown is left out.
func (p *Prover) Results() []Result {
	out := make([]Result, 0, len(p.cases))
	for _, c := range p.cases {
		if c.result.Kind != Unknown {
			out = append(out, c.result)
		}
	}
	return out
}
