package placement

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/transcript"
)

// TestTranscripts runs the histories in testdata. A file is a series of blocks;
// a block is lines that change the world, or one command, then "----", then
// what it prints.
//
//	nodes SET NAME[:WEIGHT][!]...       defines or replaces a set of nodes; ! is not ready
//	address ADDR[*COUNT] SET [on=NODE] [local=NODE,..] [immediate] [unadvertised] [serving]
//	                                    defines or replaces one address, or many in a row
//	delete ADDR
//	load NODE=COUNT...                  replaces what the nodes have besides
//
//	plan                 prints what is not kept, and the loads; records it
//	rebalance TOKEN N    takes one step of at most N moves, and records it
func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", func(t *testing.T) transcript.World { return newWorld(t) })
}

// A world is what transcripts plan for.
type world struct {
	t         *testing.T
	sets      map[string][]Node
	addresses map[netip.Addr]*entry
	load      map[string]int
	progress  Progress
}

type entry struct {
	Address
	set   string
	local []string
}

func newWorld(t *testing.T) *world {
	return &world{t: t, sets: map[string][]Node{}, addresses: map[netip.Addr]*entry{}, load: map[string]int{}}
}

// Line does what a line says.
func (w *world) Line(line string) string {
	words := strings.Fields(line)
	verb, args := words[0], words[1:]
	switch verb {
	case "nodes":
		var nodes []Node
		for _, arg := range args[1:] {
			name, unready := strings.CutSuffix(arg, "!")
			name, weight, _ := strings.Cut(name, ":")
			nodes = append(nodes, Node{name, number(weight), unready})
		}
		w.sets[args[0]] = nodes
	case "address":
		w.address(args)
	case "delete":
		delete(w.addresses, netip.MustParseAddr(args[0]))
	case "load":
		clear(w.load)
		for _, arg := range args {
			name, n, _ := strings.Cut(arg, "=")
			w.load[name] = number(n)
		}
	case "plan":
		return w.print(Plan(w.load, w.input()))
	case "rebalance":
		moves := Rebalance(w.load, w.input())
		var n int
		w.progress, n = w.progress.Step(args[0], len(moves), number(args[1]))
		return w.print(moves[:n]) + fmt.Sprintf("%d of %d moves, %d left for %s\n", n, len(moves), w.progress.Left, w.progress.Token)
	default:
		w.t.Fatalf("unknown line %q", words)
	}
	return ""
}

func (w *world) address(args []string) {
	text, count, many := strings.Cut(args[0], "*")
	n := 1
	if many {
		n = number(count)
	}
	for a := netip.MustParseAddr(text); n > 0; a, n = a.Next(), n-1 {
		e := &entry{Address: Address{Address: a, Advertised: true}, set: args[1]}
		for _, arg := range args[2:] {
			key, value, _ := strings.Cut(arg, "=")
			switch key {
			case "on":
				e.Placed = value
			case "local":
				e.local = strings.Split(value, ",")
			case "immediate":
				e.Failback = lb.FailbackImmediate
			case "unadvertised":
				e.Advertised = false
			case "serving":
				e.InService = true
			default:
				w.t.Fatalf("address: %q", arg)
			}
		}
		w.addresses[a] = e
	}
}

func (w *world) input() []Address {
	var in []Address
	for _, e := range w.addresses {
		a := e.Address
		a.Nodes = w.sets[e.set]
		for i, n := range a.Nodes {
			if slices.Contains(e.local, n.Name) {
				a.Local = append(a.Local, i)
			}
		}
		in = append(in, a)
	}
	return in
}

// print records decisions and shows what they change, and the loads.
func (w *world) print(decisions []Decision) string {
	var b strings.Builder
	for _, d := range decisions {
		e := w.addresses[d.Address]
		if d.Reason != Kept {
			fmt.Fprintf(&b, "%-13v %-4s %v", d.Address, cmpOr(d.Node, "-"), d.Reason)
			if e.Placed != "" && e.Placed != d.Node {
				fmt.Fprintf(&b, " from %s", e.Placed)
			}
			b.WriteString("\n")
		}
		e.Placed = d.Node
	}
	loads := maps.Clone(w.load)
	for _, e := range w.addresses {
		if e.Placed != "" {
			loads[e.Placed]++
		}
	}
	for _, n := range slices.Sorted(maps.Keys(loads)) {
		fmt.Fprintf(&b, "%s=%d ", n, loads[n])
	}
	return strings.TrimRight(b.String(), " ") + "\n"
}

func cmpOr(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}
