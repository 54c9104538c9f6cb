package sim

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/belfrylb/belfry/internal/election"
)

// A scenario is a cluster and what happens to it, in the order of time. As text
// it is one step a line:
//
//	seed 7 nodes 3 addresses 2 loss 0.05
//	4000 crash 1 500       n1 is killed, and started again after 500 ms
//	5000 power 2 off       n2 loses power
//	5000 stop 0 900        n0's process is stopped for 900 ms
//	5000 cable 0 out       n0's cables are pulled
//	5000 cable 0 out 1     its cable to segment1 is
//	5000 leave 2 100       n2 leaves, and starts again 100 ms after
//	5000 cut 0 1           packets from n0 to n1 are lost, on every network
//	5000 cut 0 1 gossip    ... on that network: gossip, segment0, segment1
//	5000 part 0,1          n0 and n1 are parted from the rest, likewise
//	5000 block gossip      nothing passes on that network; tcp, udp: no connection or packet of gossip
//	5000 block udp 0 1     the same between n0 and n1 alone
//	5000 blocked udp 0 1   by now n0 and n1 tell that this is blocked between them, and nothing else
//	5000 heal              nothing is cut, parted, blocked or delayed any more
//	5000 delay gossip 100  each packet is held for up to 100 ms
//	5000 lose segment0 5   of a hundred packets so many are lost
//	5000 bar 1 0 300       n1 may not announce address 0; told within 300 ms
//	5000 allow 1 0 300     it may again
//	5000 place 0 2 300     address 0 is placed on n2
//	5000 create 0 2 300    address 0, unknown so far, is in use, and placed on n2
//	5000 suspect 0 1       n0's gossip takes n1 for dead, wrongly
//	5000 renumber 1 52     n1 gets another address; its speaker's socket keeps the old one
//	5000 kernel 1 0        n1's kernel answers for address 0, too; kernel 1 0 off: not any more
//	5000 verified 0        by now a node has found that its owner alone answers for address 0
//	5000 still             from now on nothing fails, and no address moves
//	5000 told 0            by now a node has told that another station uses address 0
//	5000 joined            by now gossip holds all for alive that run
//	5000 once              from now on exactly one answers for each address, whatever happens
//
// After the loss of packets the first line may say: segments 2 (one is the default);
// placed (a controller places addresses); twin (each node has another interface on
// its first segment); bare (interfaces have no addresses); steady (every node is watched,
// and sessions miss nobody that is there); standard (nobody is watched).
type scenario struct {
	seed               uint64
	nodes, addrs       int
	loss               float64
	segments           int
	placed, twin, bare bool
	// steady: every node watches others, and no session misses what is there;
	// standard: none does.
	steady, standard bool
	steps            []step
	// gentle: there is time to recover between any two disturbances, so each
	// move must have a cause.
	gentle bool
	last   time.Duration // When the step before was.
}

type step struct {
	at   time.Duration
	verb string
	args []string
}

// number returns an argument.
func (s step) number(i int) int {
	v, err := strconv.Atoi(s.args[i])
	if err != nil {
		panic(err)
	}
	return v
}

// optional returns an argument that may be absent.
func (s step) optional(i int) string {
	if i < len(s.args) {
		return s.args[i]
	}
	return ""
}

func (s scenario) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d nodes %d addresses %d loss %g", s.seed, s.nodes, s.addrs, s.loss)
	if s.segments > 1 {
		fmt.Fprintf(&b, " segments %d", s.segments)
	}
	for _, o := range []struct {
		name string
		set  bool
	}{{"placed", s.placed}, {"twin", s.twin}, {"bare", s.bare}, {"steady", s.steady}, {"standard", s.standard}} {
		if o.set {
			b.WriteString(" " + o.name)
		}
	}
	b.WriteString("\n")
	for _, st := range s.steps {
		fmt.Fprintf(&b, "%d %s\n", st.at/ms, strings.TrimSpace(st.verb+" "+strings.Join(st.args, " ")))
	}
	return b.String()
}

func parse(text string) (s scenario, err error) {
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case f[0] == "seed":
			if _, err = fmt.Sscanf(line, "seed %d nodes %d addresses %d loss %g", &s.seed, &s.nodes, &s.addrs, &s.loss); err != nil {
				return s, fmt.Errorf("%q: %w", line, err)
			}
			for i, word := range f[8:] {
				switch word {
				case "placed":
					s.placed = true
				case "twin":
					s.twin = true
				case "bare":
					s.bare = true
				case "steady":
					s.steady = true
				case "standard":
					s.standard = true
				case "segments":
					if s.segments, err = strconv.Atoi(f[8+i+1]); err != nil {
						return s, fmt.Errorf("%q: %w", line, err)
					}
				}
			}
		default:
			at, err := strconv.Atoi(f[0])
			if err != nil || len(f) < 2 {
				return s, fmt.Errorf("%q: want a time in milliseconds and what happens", line)
			}
			s.steps = append(s.steps, step{time.Duration(at) * ms, f[1], f[2:]})
		}
	}
	return s, nil
}

// generate derives a scenario from a seed.
func generate(seed uint64) scenario {
	r := rand.New(rand.NewPCG(seed, 1))
	s := scenario{seed: seed, nodes: 2 + r.IntN(4), addrs: 1 + r.IntN(4), gentle: r.IntN(2) == 0}
	if r.IntN(3) == 0 {
		s.loss = 0.05
	}
	s.placed = r.IntN(2) == 0
	if r.IntN(3) == 0 {
		s.segments = 2
	}
	at := 6 * time.Second
	add := func(verb string, args ...any) {
		st := step{at: at, verb: verb}
		for _, a := range args {
			st.args = append(st.args, fmt.Sprint(a))
		}
		s.steps = append(s.steps, st)
	}
	n := func() int { return r.IntN(s.nodes) }
	// A fault of one network alone may move anything.
	network := func() []any {
		if s.gentle || r.IntN(2) == 0 {
			return nil
		}
		return []any{[]string{"gossip", "segment0"}[r.IntN(2)]}
	}
	created := map[int]bool{}
	count := 1 + r.IntN(3)
	if !s.gentle {
		count = 2 + r.IntN(8)
	}
	for range count {
		pause := time.Duration(r.IntN(1500)) * ms
		length := time.Duration(200+r.IntN(3000)) * ms
		if s.gentle {
			pause, length = 7*time.Second, time.Duration(200+r.IntN(6000))*ms
		}
		switch r.IntN(12) {
		case 0:
			add("crash", n(), r.IntN(2500))
		case 1:
			i := n()
			add("power", i, "off")
			at += length
			add("power", i, "on")
		case 2:
			d := []int{100, 500, 1000, 1000, 200 + r.IntN(3000)}[r.IntN(5)]
			add("stop", n(), d)
			at += time.Duration(d) * ms
		case 3:
			i := n()
			var which []any
			if s.segments > 1 && r.IntN(2) == 0 {
				which = append(which, r.IntN(s.segments))
			}
			add("cable", append([]any{i, "out"}, which...)...)
			at += length
			add("cable", append([]any{i, "in"}, which...)...)
		case 4:
			add("leave", n(), r.IntN(2000))
		case 5:
			add("cut", append([]any{n(), n()}, network()...)...)
			at += length
			add("heal")
		case 6, 7:
			var side []string
			for i := range s.nodes {
				if r.IntN(2) == 0 {
					side = append(side, fmt.Sprint(i))
				}
			}
			add("part", append([]any{strings.Join(side, ",")}, network()...)...)
			if side == nil {
				s.steps = s.steps[:len(s.steps)-1]
			}
			at += length
			add("heal")
		case 8:
			i, a := n(), r.IntN(s.addrs)
			add("bar", i, a, r.IntN(1000))
			at += length
			add("allow", i, a, r.IntN(1000))
		case 9:
			add("place", r.IntN(s.addrs), n(), r.IntN(1000))
		case 10:
			add("suspect", n(), n())
		case 11:
			if a := r.IntN(s.addrs); !created[a] {
				created[a] = true
				add("create", a, n(), r.IntN(1500))
			}
		}
		at += pause
	}
	add("heal")
	for i := range s.nodes {
		add("power", i, "on")
		add("cable", i, "in")
	}
	return s
}

// generateBare derives a scenario in which the interfaces on which nodes announce have no
// addresses. There is one segment: nothing would say which of two an address is on.
func generateBare(seed uint64) scenario {
	for ; ; seed += 1 << 32 {
		if s := generate(seed); s.segments == 0 {
			s.bare = true
			return s
		}
	}
}

// generateTwin derives one in which each node has two interfaces on its first segment.
func generateTwin(seed uint64) scenario {
	s := generate(seed)
	s.twin = true
	return s
}

// generateCut derives a scenario in which gossip is lost, in whatever way, while the
// segments are whole, and nodes fail meanwhile: exactly one answers all the time.
func generateCut(seed uint64) scenario {
	r := rand.New(rand.NewPCG(seed, 2))
	s := scenario{seed: seed, nodes: 2 + r.IntN(4), addrs: 1 + r.IntN(4), placed: r.IntN(2) == 0}
	if r.IntN(3) == 0 {
		s.segments = 2
	}
	at := 6 * time.Second
	add := func(verb string, args ...any) {
		st := step{at: at, verb: verb}
		for _, a := range args {
			st.args = append(st.args, fmt.Sprint(a))
		}
		s.steps = append(s.steps, st)
	}
	down := -1
	back := func() {
		if down >= 0 {
			add("power", down, "on")
			at += time.Duration(4000+r.IntN(2000)) * ms
		}
		down = -1
	}
	add("once")
	for range 1 + r.IntN(4) {
		switch r.IntN(3) {
		case 0:
			add("block", []string{"gossip", "gossip", "udp"}[seed%3])
		case 1:
			add("part", r.IntN(s.nodes), "gossip")
		default:
			if i, j := r.IntN(s.nodes), r.IntN(s.nodes); i != j {
				add("cut", i, j, "gossip")
			}
		}
		at += time.Duration(1+r.IntN(4000)) * ms
		for range r.IntN(3) {
			switch i := r.IntN(s.nodes); r.IntN(4) {
			case 0:
				add("crash", i, r.IntN(2500))
			case 1:
				if back(); s.nodes > 2 {
					down = i
					add("power", i, "off")
				}
			case 2:
				add("stop", i, 100+r.IntN(400))
			default:
				add("leave", i, r.IntN(2000))
			}
			at += time.Duration(6000+r.IntN(2000)) * ms
		}
		if r.IntN(2) == 0 {
			back()
		}
		add("heal")
		at += time.Duration(r.IntN(6000)) * ms
	}
	back()
	at += 6 * time.Second
	add("joined")
	return s
}

// play runs the scenario and returns the world at its end.
func (s scenario) play(verbose bool) *world {
	w := newWorld(s)
	w.verbose = verbose
	for _, st := range s.steps {
		w.run(st.at)
		if w.failure != "" {
			return w
		}
		s.do(w, st)
	}
	w.run(w.now + calmAfter + 3*time.Second)
	return w
}

func (s *scenario) do(w *world, st step) {
	c := &w.check
	arg := st.number
	length := func(i int) time.Duration { return time.Duration(arg(i)) * ms }
	// Without time to recover, anything may have been the cause.
	if !s.gentle {
		for i := range w.nodes {
			c.touched[i] = true
		}
	}
	w.note("-- %s %s", st.verb, strings.Join(st.args, " "))
	c.disturb()
	c.verb = ""
	if s.gentle && s.loss == 0 && st.at > s.last+calmAfter {
		c.verb = st.verb
	}
	s.last = st.at
	switch st.verb {
	case "crash", "power", "stop", "leave":
		c.failed = w.now
	}
	restart := func(after time.Duration) {
		w.after(after, func() { c.disturb(); c.stalled = w.now })
	}
	switch st.verb {
	case "crash":
		n := w.nodes[arg(0)]
		c.touched[n.id] = true
		if length(1) < time.Second {
			c.verb = "" // It is back before all have noticed, and what it owned is vacant.
		}
		n.kill("is killed")
		w.after(length(1), n.start)
		restart(length(1))
	case "power":
		n := w.nodes[arg(0)]
		if on := st.args[1] == "on"; on != n.powered {
			c.touched[n.id] = true
			n.power(on)
			if on {
				c.stalled = w.now
			}
		}
	case "stop":
		n := w.nodes[arg(0)]
		if length(1) > time.Second {
			c.touched[n.id] = true
			c.verb = "" // It goes on to answer until it hears of another.
		}
		c.stalled = w.now + length(1)
		n.pause(length(1))
		restart(length(1))
	case "cable":
		n := w.nodes[arg(0)]
		for segment := range w.segments {
			if only := st.optional(2); only != "" && arg(2) != segment {
				continue
			}
			if in := st.args[1] == "in"; in != n.carrier[segment] {
				c.touched[n.id] = true
				n.plug(segment, in)
			}
		}
	case "leave":
		n := w.nodes[arg(0)]
		c.touched[n.id] = true
		n.leave(length(1))
		restart(length(1))
		restart(length(1) + 2*time.Second)
	case "cut":
		if i, j := arg(0), arg(1); i != j {
			c.touched[i], c.touched[j] = true, true
			for _, net := range w.networks(st.optional(2)) {
				net.cut[i][j] = true
			}
		}
		w.watch()
	case "part":
		side := map[int]bool{}
		for _, f := range strings.Split(st.args[0], ",") {
			i, err := strconv.Atoi(f)
			if err != nil {
				panic(err)
			}
			side[i] = true
		}
		for i := range w.nodes {
			for j := range w.nodes {
				for _, net := range w.networks(st.optional(1)) {
					net.cut[i][j] = net.cut[i][j] || side[i] != side[j]
				}
			}
			// Only what a minority owns may have to move, and only if there is
			// a majority to take it over.
			if mine := map[bool]int{true: len(side), false: s.nodes - len(side)}[side[i]]; 2*mine < s.nodes {
				c.touched[i] = true
			}
		}
		w.watch()
	case "heal":
		filtered := w.gossip.only == "udp"
		for _, net := range w.networks("") {
			net.heal()
		}
		if filtered {
			w.pinged()
		}
		w.watch()
	case "block":
		name := st.args[0]
		if name == "tcp" || name == "udp" {
			name, w.gossip.only = "gossip", name
		}
		for _, net := range w.networks(name) {
			for i := range net.cut {
				for j := range net.cut[i] {
					net.cut[i][j] = st.optional(2) == "" || i+j == arg(1)+arg(2) && (i == arg(1) || i == arg(2))
				}
			}
		}
		w.watch()
		for _, n := range w.nodes {
			if w.gossip.only == "udp" {
				n.refresh() // pings bring nothing, and go on
			}
		}
	case "blocked":
		for _, n := range w.nodes {
			var want []election.Blocked
			for i, other := range []int{arg(2), arg(1)} {
				if n.id == arg(1+i) {
					want = []election.Blocked{{Node: w.nodes[other].name, Protocols: election.ProtocolsOf([]string{strings.ToUpper(st.args[0])})}}
				}
			}
			if !slices.Equal(n.blocked, want) {
				w.fail("%s tells that gossip is blocked to %v, and it is to %v", n.name, n.blocked, want)
			}
		}
	case "delay":
		for _, net := range w.networks(st.args[0]) {
			net.late = length(1)
		}
		w.misjudge()
	case "still":
		for _, a := range w.addrs {
			for _, n := range w.nodes {
				if n.answers(a) {
					c.still[a] = n.id
				}
			}
		}
	case "told":
		if a := w.addrs[arg(0)]; !c.told[a] {
			w.fail("no node tells that a station that is not its owner's uses %s", a)
		}
	case "joined":
		for _, n := range w.nodes {
			for _, other := range w.nodes {
				alive := func(m election.Member) bool { return m.Node == other.name && m.State == election.Alive }
				if n.active() && other.active() && !slices.ContainsFunc(n.members, alive) {
					w.fail("gossip of %s has not found %s\n%s", n.name, other.name, w)
				}
			}
		}
	case "lose":
		for _, net := range w.networks(st.args[0]) {
			net.loss = float64(arg(1)) / 100
		}
	case "renumber":
		w.nodes[arg(0)].renumber(arg(1))
	case "kernel":
		n := w.nodes[arg(0)]
		n.kernel[w.addrs[arg(1)]], n.leftover = st.optional(2) != "off", w.now
	case "verified":
		if a := w.addrs[arg(0)]; !slices.ContainsFunc(w.nodes, func(n *node) bool { return n.verifies(a) }) {
			w.fail("no node says that %s is answered for by its owner alone\n%s", a, w)
		}
	case "once":
		w.once = true
	case "bar", "allow":
		n, a := arg(0), w.addrs[arg(1)]
		c.moved[a] = true
		w.configure(length(2), func(cfg *config) {
			if cfg.barred[a] == nil {
				cfg.barred[a] = map[int]bool{}
			}
			if st.verb == "bar" {
				cfg.barred[a][n] = true
			} else {
				delete(cfg.barred[a], n)
			}
		})
		restart(length(2))
	case "place":
		a := w.addrs[arg(0)]
		c.moved[a] = true
		w.configure(length(2), func(cfg *config) { cfg.placed[a] = w.nodes[arg(1)].name })
		restart(length(2))
	case "create":
		a := w.addrs[arg(0)]
		c.moved[a], c.created, c.createdAt = true, a, w.now+length(2)
		w.configure(length(2), func(cfg *config) {
			delete(cfg.absent, a)
			cfg.placed[a] = w.nodes[arg(1)].name
		})
		restart(length(2))
	case "suspect":
		if n, other := w.nodes[arg(0)], w.nodes[arg(1)]; n != other && n.active() && n.gossip[other.id] {
			n.lose(other)
		}
	default:
		panic("no such step: " + st.verb)
	}
}
