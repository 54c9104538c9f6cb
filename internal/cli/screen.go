package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/belfrylb/belfry/internal/world"
)

// A screen is the live view: what is known, what of it is shown, and how large the
// terminal is.
type screen struct {
	picture *world.Picture
	trouble string
	// now is what ages are counted to.
	now           time.Time
	colors        bool
	width, height int
	// tab is which part is shown, and top the first of its rows.
	tab, top int
}

// A sheet is one part of what is shown.
type sheet struct {
	title string
	// head names the columns; all have the same number.
	head []string
	rows []row
}

// A row is one line of a sheet.
type row struct {
	cells []string
	color color
}

// overview is the tab with a part of each sheet.
const overview = "Overview"

// margin are the lines that are no rows: the summary, the tabs, the last line, and an empty
// one after the first two and before the last.
const margin = 5

func (s *screen) resize(width, height int) {
	s.width, s.height = width, height
	s.scroll(0)
}

func (s *screen) show(p *world.Picture, trouble string) {
	s.picture, s.trouble = p, trouble
	s.now = later(s.now, p.At)
	s.scroll(0)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// press does what a key says, and reports whether that is to end it.
func (s *screen) press(key string) (quit bool) {
	tabs := len(s.sheets()) + 1
	switch key {
	case "q", "ctrl+c":
		return true
	case "tab", "right", "l":
		s.tab, s.top = (s.tab+1)%tabs, 0
	case "shift+tab", "left", "h":
		s.tab, s.top = (s.tab+tabs-1)%tabs, 0
	case "down", "j":
		s.scroll(1)
	case "up", "k":
		s.scroll(-1)
	case "pgdown", "space":
		s.scroll(s.room())
	case "pgup":
		s.scroll(-s.room())
	case "home", "g":
		s.top = 0
	case "end", "G":
		s.scroll(len(s.sheet().rows))
	}
	return false
}

// room is how many rows of a sheet there is room for.
func (s *screen) room() int { return max(s.height-margin-1, 1) }

// scroll moves by some rows, and stays within what there is.
func (s *screen) scroll(by int) {
	s.top = max(min(s.top+by, len(s.sheet().rows)-s.room()), 0)
}

// sheet is the one that is shown; the overview is none.
func (s *screen) sheet() sheet {
	if s.tab == 0 {
		return sheet{}
	}
	return s.sheets()[s.tab-1]
}

// sheets are all parts.
func (s *screen) sheets() []sheet {
	p := s.picture
	nodes := sheet{title: "Nodes", head: []string{"NAME", "SPEAKER", "LAYER 2", "BGP", "NOTE"}}
	for _, n := range p.Nodes {
		r := row{cells: []string{n.Node, n.State, fmt.Sprint(n.Layer2), "-", strings.Join(n.Notes, ", ")}}
		if n.Sessions > 0 {
			r.cells[3] = fmt.Sprintf("%d/%d", n.Up, n.Sessions)
		}
		if n.Withheld > 0 {
			r.cells[4] = strings.TrimPrefix(fmt.Sprintf("%s, %d withheld", r.cells[4], n.Withheld), ", ")
		}
		if n.State != "running" {
			r.color = red
		}
		nodes.rows = append(nodes.rows, r)
	}
	addresses := sheet{title: "Addresses", head: []string{"ADDRESS", "NODE", "FOR", "HOW", "SERVICE", "ANNOUNCED"}}
	for _, a := range p.Addresses {
		r := row{cells: []string{a.Address.String(), cmp.Or(strings.Join(a.Nodes, " "), "-"), s.since(a.Since), cmp.Or(a.How, "-"), strings.Join(a.Services, " "), a.Told}}
		if !a.Well {
			r.color = red
		}
		addresses.rows = append(addresses.rows, r)
	}
	sessions := sheet{title: "Sessions", head: []string{"NODE", "PEER", "STATE", "FOR", "PREFIXES", "BFD", "WHY"}}
	for _, b := range p.Sessions {
		r := row{cells: []string{b.Node, b.Peer, b.State, s.since(b.Since), fmt.Sprint(b.Prefixes), b.BFD, b.Error}}
		if !b.Well {
			r.color = red
		}
		sessions.rows = append(sessions.rows, r)
	}
	moves := sheet{title: "Moves", head: []string{"TIME (UTC)", "NODE", "HOW", "COUNT", "ADDRESSES"}}
	for _, m := range p.Moves {
		r := row{cells: []string{m.At.UTC().Format("2006-01-02 15:04:05"), m.Node, m.How, fmt.Sprint(m.Count), strings.Join(m.Addresses, " ")}}
		if s.now.Sub(m.At) < time.Minute {
			r.color = yellow
		}
		moves.rows = append(moves.rows, r)
	}
	problems := sheet{title: "Problems", head: []string{"OBJECT", "WHAT"}}
	for _, b := range p.Problems {
		problems.rows = append(problems.rows, row{[]string{b.Object, b.Message}, red})
	}
	return []sheet{nodes, addresses, sessions, moves, problems}
}

// since is how long ago a time was.
func (s *screen) since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return world.Span(max(s.now.Sub(t), 0))
}

// A drawing is lines of a width.
type drawing struct {
	*screen
	out []string
}

// line adds one, cut where the terminal ends.
func (d *drawing) line(c color, text string) {
	text = strings.TrimRight(text, " ")
	if utf8.RuneCountInString(text) > d.width {
		text = string([]rune(text)[:max(d.width-1, 0)]) + "~"
	}
	d.out = append(d.out, (&page{colors: d.colors}).paint(c, text))
}

// lines draws the screen, at most as many lines as it is high.
func (s *screen) lines() []string {
	d := &drawing{screen: s}
	if s.width == 0 || s.height == 0 {
		return nil // it is not known yet how large it is
	}
	d.summary()
	sheets := s.sheets()
	titles := []string{overview}
	for _, sh := range sheets {
		titles = append(titles, fmt.Sprintf("%s (%d)", sh.title, len(sh.rows)))
	}
	for i := range titles {
		if i == s.tab {
			titles[i] = "[" + titles[i] + "]"
		} else {
			titles[i] = " " + titles[i] + " "
		}
	}
	d.line(bold, strings.Join(titles, " "))
	d.line(plain, "")
	position := ""
	if s.tab == 0 {
		d.overview(sheets)
	} else {
		sh := sheets[s.tab-1]
		end := min(s.top+s.room(), len(sh.rows))
		d.rows(sh, s.top, end)
		position = fmt.Sprintf("%d to %d of %d   ", min(s.top+1, end), end, len(sh.rows))
	}
	for len(d.out) < s.height-1 {
		d.out = append(d.out, "")
	}
	d.out = d.out[:max(min(len(d.out), s.height-1), 0)]
	d.last(position)
	return d.out
}

// summary is the first line.
func (d *drawing) summary() {
	p, c := d.picture, green
	leader := "leader not known"
	switch {
	case p.Controller.Late:
		leader, c = "no leader", red
	case p.Controller.Known:
		leader = "led by " + p.Controller.Leader
	}
	if len(p.Problems) > 0 {
		c = red
	}
	d.line(c, fmt.Sprintf("Belfry  %d of %d speakers, %d Services, %d announced, %d %s, %s", p.Speakers.Alive, p.Speakers.Nodes,
		p.Services.Total, p.Services.Announced, len(p.Problems), map[bool]string{true: "problem", false: "problems"}[len(p.Problems) == 1], leader))
}

// last is the last line: whether this is how it is, and what keys do.
func (d *drawing) last(position string) {
	clock := d.now.UTC().Format("15:04:05") + " UTC"
	if d.trouble != "" {
		d.line(red, fmt.Sprintf("%s   as of %s: %s", clock, d.picture.At.UTC().Format("15:04:05"), d.trouble))
		return
	}
	d.line(faint, clock+"   "+position+"tab: next, arrows: scroll, q: quit")
}

// overview draws the beginning of each sheet that has rows, problems first: all have the same share of the
// room, and what one does not need the others have. What is wrong comes first. Where there is
// little room the last sheets are left out.
func (d *drawing) overview(sheets []sheet) {
	problems := len(sheets) - 1
	sheets = slices.DeleteFunc(slices.Concat(sheets[problems:], sheets[:problems]), func(sh sheet) bool { return len(sh.rows) == 0 })
	room := func() int { return d.height - margin - 3*len(sheets) + 1 } // a title, a head and an empty line each
	for len(sheets) > 1 && room() < len(sheets) {
		sheets = sheets[:len(sheets)-1]
	}
	left := room()
	shares := make([]int, len(sheets))
	for given := true; given && left > 0; {
		given = false
		for i, sh := range sheets {
			if shares[i] < len(sh.rows) && left > 0 {
				shares[i]++
				left--
				given = true
			}
		}
	}
	for i, sh := range sheets {
		if i > 0 {
			d.line(plain, "")
		}
		title := sh.title
		if more := len(sh.rows) - shares[i]; more > 0 {
			title = fmt.Sprintf("%s (%d of %d)", title, shares[i], len(sh.rows))
		}
		d.line(bold, title)
		slices.SortStableFunc(sh.rows, func(a, b row) int { return severity(b) - severity(a) })
		d.rows(sh, 0, shares[i])
	}
}

// severity puts what is wrong before what is well.
func severity(r row) int {
	if r.color == red {
		return 1
	}
	return 0
}

// rows draws some rows of a sheet below its head. Columns are as wide as what is drawn.
func (d *drawing) rows(sh sheet, from, to int) {
	shown := sh.rows[from:to]
	columns := make([]int, len(sh.head))
	for _, cells := range append([][]string{sh.head}, cellsOf(shown)...) {
		for i, c := range cells {
			columns[i] = max(columns[i], utf8.RuneCountInString(c))
		}
	}
	write := func(c color, cells []string) {
		text := " "
		for i, cell := range cells {
			text += " " + cell + strings.Repeat(" ", columns[i]-utf8.RuneCountInString(cell)+1)
		}
		d.line(c, text)
	}
	write(faint, sh.head)
	for _, r := range shown {
		write(r.color, r.cells)
	}
}

func cellsOf(rows []row) (out [][]string) {
	for _, r := range rows {
		out = append(out, r.cells)
	}
	return out
}
