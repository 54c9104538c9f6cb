package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/belfrylb/belfry/internal/world"
)

// width is how many columns text has.
const width = 100

// A color is one of a terminal's (ECMA-48, SGR).
type color string

const (
	plain  color = ""
	bold   color = "1"
	red    color = "31"
	green  color = "32"
	yellow color = "33"
	faint  color = "2"
)

// A page is text that is being written.
type page struct {
	w      io.Writer
	colors bool
}

func (p *page) paint(c color, text string) string {
	if !p.colors || c == plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

func (p *page) line(format string, args ...any) {
	fmt.Fprintln(p.w, strings.TrimRight(fmt.Sprintf(format, args...), " "))
}

// head begins a part of the page.
func (p *page) head(text string) { p.line("%s", p.paint(bold, text)) }

// wrapped writes words within the width, the lines after the first indented more.
func (p *page) wrapped(indent int, text string) {
	for i, l := range wrap(text, width-indent) {
		if i == 1 {
			indent += 2
		}
		p.line("%s%s", strings.Repeat(" ", indent), l)
	}
}

// wrap breaks a text between words. A word that is longer than a line stays whole.
func wrap(text string, columns int) (lines []string) {
	line := ""
	room := columns
	for word := range strings.FieldsSeq(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > room {
			lines = append(lines, line)
			line, room = "", columns-2
		}
		line = strings.TrimLeft(line+" "+word, " ")
	}
	return append(lines, line)
}

// table writes rows, of which the first has the names of the columns. The last column
// is broken where there is no room for it.
func (p *page) table(indent int, rows [][]string, paint func(row []string) color) {
	if len(rows) == 0 {
		return
	}
	last := len(rows[0]) - 1
	columns := make([]int, last)
	for _, r := range rows {
		for i := range columns {
			columns[i] = max(columns[i], utf8.RuneCountInString(r[i]))
		}
	}
	for n, r := range rows {
		c := plain
		switch {
		case n == 0:
			c = faint
		case paint != nil:
			c = paint(r)
		}
		text := strings.Repeat(" ", indent)
		at := indent
		for i := range columns {
			text += r[i] + strings.Repeat(" ", columns[i]-utf8.RuneCountInString(r[i])+2)
			at += columns[i] + 2
		}
		for i, l := range wrap(r[last], max(width-at, 20)) {
			if i == 0 {
				p.line("%s", p.paint(c, strings.TrimRight(text+l, " ")))
			} else {
				p.line("%s", p.paint(c, strings.Repeat(" ", at)+l))
			}
		}
	}
}

// bar draws how much of something is used.
func bar(used, total int64, columns int) string {
	if total <= 0 {
		return "[" + strings.Repeat(".", columns) + "]"
	}
	full := min(int(float64(used)/float64(total)*float64(columns)), columns)
	if used > 0 && full == 0 {
		full = 1
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", columns-full) + "]"
}

// number shortens a number that is too long to compare.
func number(n int64) string {
	if n >= 1_000_000 {
		return fmt.Sprintf("%.1e", float64(n))
	}
	return fmt.Sprint(n)
}

// most is how many rows of a kind the status has on one screen.
const most = 12

// printStatus writes the status on one screen; wide writes all of it.
func printStatus(p *page, s *world.Status, wide bool) {
	limit := func(n int) int {
		if wide {
			return n
		}
		return min(n, most)
	}
	leader := p.paint(faint, "not known (its Lease was not read)")
	switch c := s.Controller; {
	case c.Known && c.Late:
		leader = p.paint(red, "no leader")
	case c.Known:
		leader = p.paint(green, "led by "+c.Leader)
	}
	p.line("%s  %s", p.paint(bold, "Controller"), leader)
	c := green
	if s.Speakers.Alive < s.Speakers.Nodes {
		c = red
	}
	versions := ""
	if len(s.Speakers.Versions) > 0 {
		versions = ", " + strings.Join(s.Speakers.Versions, " and ")
	}
	p.line("%s    %s", p.paint(bold, "Speakers"), p.paint(c, fmt.Sprintf("%d of %d nodes%s", s.Speakers.Alive, s.Speakers.Nodes, versions)))
	c = green
	if s.Services.Announced < s.Services.Total {
		c = red
	}
	p.line("%s    %s", p.paint(bold, "Services"), p.paint(c, fmt.Sprintf("%d, %d with an address, %d announced", s.Services.Total, s.Services.Allocated, s.Services.Announced)))

	p.line("")
	p.head("Pools")
	rows := [][]string{{"NAME", "FAMILY", "", "ASSIGNED", "FREE", "NOTE"}}
	for _, pool := range s.Pools[:limit(len(s.Pools))] {
		note := pool.Note
		if pool.Orphaned > 0 {
			note = strings.TrimPrefix(fmt.Sprintf("%s, %d orphaned", note, pool.Orphaned), ", ")
		}
		rows = append(rows, []string{
			pool.Pool, pool.Family, bar(pool.Assigned, pool.Total, 20),
			number(pool.Assigned) + "/" + number(pool.Total), number(pool.Available), note,
		})
	}
	p.table(2, rows, nil)
	p.rest(len(s.Pools)-limit(len(s.Pools)), "pools")

	p.line("")
	p.head("Nodes")
	rows = [][]string{{"NAME", "SPEAKER", "LAYER 2", "BGP", "NOTE"}}
	nodes := s.Nodes
	if !wide && len(nodes) > most { // those with something to say first
		nodes = slices.Clone(nodes)
		slices.SortStableFunc(nodes, func(a, b world.NodeStatus) int { return weight(b) - weight(a) })
	}
	for _, n := range nodes[:limit(len(nodes))] {
		sessions := "-"
		if n.Sessions > 0 {
			sessions = fmt.Sprintf("%d/%d", n.Up, n.Sessions)
		}
		notes := slices.Clone(n.Notes)
		if n.Withheld > 0 {
			notes = append(notes, fmt.Sprintf("%d withheld", n.Withheld))
		}
		rows = append(rows, []string{n.Node, n.State, fmt.Sprint(n.Layer2), sessions, strings.Join(notes, ", ")})
	}
	p.table(2, rows, func(row []string) color {
		if row[1] != "running" {
			return red
		}
		return plain
	})
	p.rest(len(s.Nodes)-limit(len(s.Nodes)), "nodes")

	if len(s.Peers) > 0 {
		p.line("")
		p.head("Routers")
		rows = [][]string{{"PEER", "ADDRESS", "AS", "SESSIONS", "PREFIXES"}}
		for _, r := range s.Peers[:limit(len(s.Peers))] {
			rows = append(rows, []string{r.Peer, r.Address, r.ASN, fmt.Sprintf("%d/%d", r.Up, r.Total), fmt.Sprint(r.Prefixes)})
		}
		p.table(2, rows, nil)
		p.rest(len(s.Peers)-limit(len(s.Peers)), "peers")
	}

	p.line("")
	if s.Well() {
		p.line("%s", p.paint(green, "No problems."))
		return
	}
	p.head(fmt.Sprintf("Problems (%d)", len(s.Problems)))
	for _, b := range s.Problems[:limit(len(s.Problems))] {
		for i, l := range wrap(b.Object+": "+b.Message, width-4) {
			mark := "! "
			if i > 0 {
				mark = "    "
			}
			p.line("  %s", p.paint(red, mark+l))
		}
		if b.Command != "" {
			p.line("      %s", p.paint(faint, b.Command))
		}
	}
	p.rest(len(s.Problems)-limit(len(s.Problems)), "problems")
}

// weight is how much there is to say of a node.
func weight(n world.NodeStatus) (w int) {
	if n.State != "running" {
		w += 4
	}
	if n.Withheld > 0 || n.Up < n.Sessions {
		w += 2
	}
	if len(n.Notes) > 0 {
		w++
	}
	return w
}

// rest says how much is left out.
func (p *page) rest(n int, what string) {
	if n > 0 {
		p.line("  %s", p.paint(faint, fmt.Sprintf("and %d more %s: -o wide lists all", n, what)))
	}
}

// printExplanation writes an explanation.
func printExplanation(p *page, e *world.Explanation) {
	p.head(e.Subject)
	for _, s := range e.Sections {
		p.line("")
		p.head(s.Title)
		for _, l := range s.Lines {
			p.wrapped(2, l)
		}
		p.table(2, s.Table, func(row []string) color {
			if slices.Contains(row, "yes") {
				return green
			}
			return plain
		})
	}
}

// verbs are how a plan marks what becomes of an address.
var verbs = map[world.Verb]struct {
	mark string
	color
}{
	world.Cut: {"-", red}, world.Orphaned: {"!", yellow}, world.Waits: {"?", red}, world.Refused: {"?", red}, world.Moves: {"~", yellow},
	world.Released: {"-", yellow}, world.Gets: {"+", green}, world.Announced: {"+", green}, world.Stays: {"=", faint},
}

// printPlan writes a plan; wide lists what stays, too.
func printPlan(p *page, plan *world.Plan, wide bool) {
	printed := false
	space := func() {
		if printed {
			p.line("")
		}
		printed = true
	}
	for _, c := range plan.Changes {
		if c.Verb == world.Stays && !wide {
			continue
		}
		text := c.Service
		if c.Address != "" {
			text += " " + c.Address
		}
		switch {
		case c.Verb == world.Moves && c.From == c.Address: // another address
			text += " -> " + c.To
		case c.From != "" && c.To != "" && c.From != c.To:
			text += " (" + c.From + " -> " + c.To + ")"
		case c.To != "":
			text += " (" + c.To + ")"
		case c.From != "":
			text += " (" + c.From + ")"
		}
		if c.Why != "" {
			text += ": " + c.Why
		}
		printed = true
		v := verbs[c.Verb]
		for i, l := range wrap(text, width-12) {
			if i == 0 {
				p.line("%s", p.paint(v.color, fmt.Sprintf("%s %-9s %s", v.mark, c.Verb, l)))
			} else {
				p.line("%s", p.paint(v.color, strings.Repeat(" ", 14)+l))
			}
		}
	}
	for _, r := range plan.Routers {
		space()
		p.head("Router " + r.Peer)
		for _, list := range []struct {
			mark   string
			color  color
			routes []world.RouteChange
		}{{"-", red, r.Withdrawn}, {"+", green, r.Added}, {"~", yellow, r.Changed}} {
			for i, route := range list.routes {
				if i == most && !wide {
					p.line("  %s", p.paint(faint, fmt.Sprintf("%s and %d more: -o wide lists all", list.mark, len(list.routes)-most)))
					break
				}
				for n, l := range wrap(route.Route+" from "+strings.Join(route.Nodes, ", "), width-4) {
					if n == 0 {
						l = list.mark + " " + l
					} else {
						l = "    " + l
					}
					p.line("  %s", p.paint(list.color, l))
				}
			}
		}
	}
	space()
	var totals []string
	for _, v := range world.Verbs {
		if n := plan.Totals[v]; n > 0 {
			totals = append(totals, fmt.Sprintf("%d %s", n, counted[v][min(n, 2)-1]))
		}
	}
	if len(totals) == 0 {
		totals = []string{"no addresses"}
	}
	if n := plan.RoutesWithdrawn; n > 0 {
		totals = append(totals, fmt.Sprintf("%d routes withdrawn", n))
	}
	if n := plan.RoutesAdded; n > 0 {
		totals = append(totals, fmt.Sprintf("%d routes added", n))
	}
	p.line("%s", p.paint(bold, "Plan: "+strings.Join(totals, ", ")+"."))
	for _, note := range plan.Notes {
		for i, l := range wrap(note, width-2) {
			p.line("%s", p.paint(yellow, strings.Repeat("  ", min(i, 1))+l))
		}
	}
}

// counted are the verbs after one and after several.
var counted = map[world.Verb][2]string{
	world.Cut: {"is cut", "are cut"}, world.Orphaned: {"is orphaned", "are orphaned"}, world.Waits: {"waits", "wait"},
	world.Refused: {"is refused", "are refused"}, world.Moves: {"moves", "move"}, world.Released: {"is released", "are released"},
	world.Gets: {"is given", "are given"}, world.Announced: {"is announced", "are announced"}, world.Stays: {"stays", "stay"},
}
