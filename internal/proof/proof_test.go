package proof

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/transcript"
)

// TestTranscripts tells what the Prover of node a asks for and finds out.
//
//	set ADDR=OWNER[,old][,bare].. [askers=N]   what there is to ask for; old: owned for long;
//	                                           bare: the owner's kernel cannot be asked
//	answers ADDR STATION..    who answers for an address from now on; STATION is a node, a
//	                          node's other interface (b2), or a hardware address
//	claims NODE ADDR..        what a node's speaker claims by gossip
//	unheard NODE              its speaker is not heard
//	unwell NODE               its speaker is suspected, or well again: well NODE
//	hear ADDR                 something is heard of an address that needs a look
//	owners                    owners answer for what nothing else is said of
//	fails                     questions cannot be put from now on
//	sleep DUR
//
// Questions are answered after their rounds, driven by the Prover's own Round.
func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", func(t *testing.T) transcript.World {
		return &world{t: t, prover: NewProver("a", 5*time.Minute), now: start, answers: map[string][]string{}, claims: map[string]bool{}, unheard: map[string]bool{}, unwell: map[string]bool{}}
	})
}

var start = time.Unix(1000, 0)

type world struct {
	t       *testing.T
	prover  *Prover
	now     time.Time
	rounds  []*round
	answers map[string][]string
	// claims has "node address"; unheard and unwell have nodes.
	claims, unheard, unwell map[string]bool
	fails, owners           bool
	out                     strings.Builder
}

type round struct {
	*Round
	Question
	next time.Time
}

// kernel is the address of a node's kernel.
func kernel(node string) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 11+node[0]-'a'))
}

func station(name string) lb.MAC {
	if mac, err := lb.ParseMAC(name); err == nil {
		return mac
	}
	return lb.MAC{2, 4: byte(len(name)), 5: name[0]}
}

func (w *world) whose(mac lb.MAC, a netip.Addr) (string, Voice) {
	if mac[0] != 2 || mac[1] != 0 || mac[5] < 'a' {
		return "", Stranger
	}
	node := string(rune(mac[5]))
	switch {
	case w.unheard[node]:
		return node, Silent
	case w.claims[node+" "+a.String()]:
		return node, Speaker
	}
	return node, Kernel
}

func (w *world) Line(line string) string {
	w.out.Reset()
	words := strings.Fields(line)
	verb, words := words[0], words[1:]
	switch verb {
	case "set":
		w.set(words)
	case "answers":
		w.answers[words[0]] = words[1:]
	case "claims":
		for _, a := range words[1:] {
			w.claims[words[0]+" "+a] = true
		}
	case "unheard":
		w.unheard[words[0]] = true
	case "unwell", "well":
		w.unwell[words[0]] = verb == "unwell"
	case "hear":
		w.prover.Recheck(w.now, netip.MustParseAddr(words[0]))
	case "owners":
		w.owners = true
	case "fails":
		w.fails = true
	case "sleep":
		d, err := time.ParseDuration(words[0])
		if err != nil {
			w.t.Fatal(err)
		}
		w.run(w.now.Add(d))
	default:
		w.t.Fatalf("%q: no such line", line)
	}
	return w.out.String()
}

func (w *world) set(words []string) {
	var subjects []Subject
	askers := 1
	for _, word := range words {
		if n, is := strings.CutPrefix(word, "askers="); is {
			if _, err := fmt.Sscan(n, &askers); err != nil {
				w.t.Fatal(err)
			}
			continue
		}
		a, owner, _ := strings.Cut(word, "=")
		options := strings.Split(owner, ",")
		s := Subject{Address: netip.MustParseAddr(a), Owner: options[0], Since: w.now, Interface: 2, Control: kernel(options[0])}
		if i := slices.IndexFunc(w.prover.cases, func(c *inquest) bool { return c.Address == s.Address && c.Owner == s.Owner }); i >= 0 {
			s.Since = w.prover.cases[i].Since
		} else if slices.Contains(options, "old") {
			s.Since = time.Time{}
		}
		w.claims[s.Owner+" "+a] = true
		if slices.Contains(options, "bare") || s.Owner == "a" {
			s.Control = netip.Addr{}
		}
		subjects = append(subjects, s)
	}
	slices.SortFunc(subjects, func(a, b Subject) int { return a.Address.Compare(b.Address) })
	w.prover.Set(w.now, subjects, askers)
}

func (w *world) print(format string, args ...any) {
	fmt.Fprintf(&w.out, "%-7v ", w.now.Sub(start))
	fmt.Fprintf(&w.out, format+"\n", args...)
}

// run drives the Prover and its rounds.
func (w *world) run(until time.Time) {
	for {
		ask, _ := w.prover.Next(w.now)
		for _, q := range ask {
			w.rounds = append(w.rounds, &round{NewRound(w.now, q), q, w.now})
		}
		w.rounds = slices.DeleteFunc(w.rounds, w.step)
		for _, c := range w.prover.Changes() {
			if c.Ended {
				w.print("log     %s %v of %s has ended after %v", c.Address, c.Kind, c.Owner, c.Lasted)
			} else {
				w.print("log     %s %v of %s", c.Address, c.Kind, c.Owner)
			}
		}
		if w.prover.News() {
			w.tell(w.prover.Results())
			continue
		}
		ask, next := w.prover.Next(w.now)
		if len(ask) > 0 {
			w.t.Fatalf("asked twice in one moment: %v", ask)
		}
		for _, r := range w.rounds {
			if next.IsZero() || r.next.Before(next) {
				next = r.next
			}
		}
		if next.IsZero() || next.After(until) {
			w.now = until
			return
		}
		if !next.After(w.now) {
			w.t.Fatalf("%v: asks to be called at once, again", w.now.Sub(start))
		}
		w.now = next
	}
}

func (w *world) tell(results []Result) {
	count := map[Kind]int{}
	for _, v := range results {
		if count[v.Kind]++; len(results) <= 4 {
			w.print("  %s", text(v))
		}
	}
	switch {
	case len(results) == 0:
		w.print("  nothing is known")
	case len(results) > 4:
		w.print("  %v", count)
	}
}

// step lets a round go on, and reports whether it is over.
func (w *world) step(r *round) (over bool) {
	if r.next.After(w.now) {
		return false
	}
	ask, next := r.Next(w.now)
	if len(ask) > 0 {
		w.print("ask for %v", compact(ask))
	}
	for _, a := range ask {
		who, said := w.answers[a.String()]
		if c := w.prover.find(a); !said && w.owners && c != nil && c.Owner != "a" {
			who = []string{c.Owner}
		}
		for _, node := range []string{"a", "b", "c", "d"} {
			if a == kernel(node) && !slices.Contains(who, "none") {
				who = append(slices.Clone(who), node)
			}
		}
		for _, s := range who {
			if s != "none" {
				r.Hear(w.now.Add(time.Millisecond), a, station(s))
			}
		}
	}
	r.next = next
	if !next.IsZero() {
		return false
	}
	w.prover.Answer(w.now, r.Question, r.Answers(), w.fails, w.whose, func(node string) bool { return !w.unwell[node] })
	return true
}

func compact(addresses []netip.Addr) string {
	var out []string
	for _, a := range addresses[:min(len(addresses), 3)] {
		out = append(out, a.String())
	}
	if more := len(addresses) - 3; more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, " ")
}

func text(v Result) string {
	out := fmt.Sprintf("%v of %s: %v", v.Address, v.Owner, v.Kind)
	for _, s := range v.By {
		out += fmt.Sprintf(", %v", s.Voice)
		if s.Node != "" {
			out += " of " + s.Node
		}
		out += " " + s.MAC.String()
	}
	return out
}

func subnet(text string) lb.Interface {
	return lb.Interface{Addresses: []netip.Prefix{netip.MustParsePrefix(text), netip.MustParsePrefix("fe80::1/64")}}
}

func TestTheWitnessIsTheNextByNameOnTheSegment(t *testing.T) {
	member := func(node string, state election.State, subnets ...string) election.Member {
		m := election.Member{Node: node, State: state}
		for _, s := range subnets {
			m.Interfaces = append(m.Interfaces, subnet(s))
		}
		return m
	}
	members := []election.Member{
		member("a", election.Alive, "192.0.2.1/24", "2001:db8::1/64"),
		member("b", election.Alive, "198.51.100.2/24"),
		member("c", election.Suspected, "192.0.2.3/24"),
		member("d", election.Alive, "192.0.2.4/24", "2001:db8::4/64"),
		member("e", election.Leaving, "2001:db8::5/64"),
	}
	for _, tc := range []struct{ name, owner, on, want string }{
		{"passes over other segments and suspects", "a", "192.0.2.1/24", "d"},
		{"the first follows the last", "d", "192.0.2.4/24", "a"},
		{"IPv6", "a", "2001:db8::1/64", "d"},
		{"IPv6, after one that leaves", "d", "2001:db8::4/64", "a"},
		{"alone on its segment", "b", "198.51.100.2/24", ""},
		{"link-local addresses name no segment", "b", "fe80::2/64", ""},
		{"an owner that is no member", "cc", "192.0.2.9/24", "d"},
	} {
		if got := Witness(members, tc.owner, subnet(tc.on)); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	if got := Witness(nil, "a", subnet("192.0.2.1/24")); got != "" {
		t.Errorf("without members: %q", got)
	}
}

func TestTheSegmentOfAnAddressIsThatOfItsSubnet(t *testing.T) {
	interfaces := []lb.Interface{subnet("192.0.2.1/24"), subnet("2001:db8::1/64")}
	for _, tc := range []struct {
		address string
		want    int
	}{{"192.0.2.200", 0}, {"2001:db8::200", 1}, {"203.0.113.1", 0}, {"2001:db8:9::1", 0}} {
		if got, ok := Segment(interfaces, netip.MustParseAddr(tc.address)); !ok || !got.Equal(interfaces[tc.want]) {
			t.Errorf("%s: %v", tc.address, got)
		}
	}
	if _, ok := Segment(nil, netip.MustParseAddr("192.0.2.200")); ok {
		t.Error("a node without interfaces has a segment")
	}
}

func TestARoundHearsEachStationOnceAndABoundedNumber(t *testing.T) {
	a := netip.MustParseAddr("2001:db8::200")
	r := NewRound(start, Question{Interface: 2, Targets: []Target{{a, UntilAnswered}}, Window: windowLeast})
	if ask, wake := r.Next(start); !slices.Equal(ask, []netip.Addr{a}) || wake != start.Add(windowLeast*2/3) {
		t.Fatalf("asks for %v, again at %v", ask, wake)
	}
	for i := range answersMost + 100 {
		r.Hear(start, a, lb.MAC{2, 4: byte(i >> 8), 5: byte(i)})
		r.Hear(start, a, lb.MAC{2, 4: byte(i >> 8), 5: byte(i)})
	}
	r.Hear(start, netip.MustParseAddr("2001:db8::201"), lb.MAC{2}) // not asked for
	if got := len(r.Answers()); got != answersMost {
		t.Errorf("%d answers are kept, want %d", got, answersMost)
	}
	if got := slices.Clone(r.Answers()); len(slices.Compact(got)) != answersMost {
		t.Errorf("a station counts twice: %v", got)
	}
}
