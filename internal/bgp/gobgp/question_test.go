package gobgp

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A question is what routers are asked by one test, and a row of the table in
// docs/concepts/bgp.md, which says how each of them answered.
type question string

// The questions, in the order of the table. A test asks one of them.
const (
	askedRoutes     question = "routes come, change and go"
	askedAttributes question = "attributes and communities, external and internal; four-octet AS numbers; a router without capabilities; IPv4 over IPv6 (RFC 8950)"
	askedFamilies   question = "both families over one session, with RFC 8950 and without"
	askedNextHops   question = "next hops of the other family follow the interface's addresses"
	askedFewer      question = "a router comes back with fewer families, and with more"
	askedUnnumbered question = "unnumbered sessions, plain, signed and with TTL security"
	askedPasswords  question = "passwords (TCP MD5): wrong, right, rotated, lost"
	askedTrouble    question = "a session that does not come up is explained in words"
	askedFull       question = "a router's limit of prefixes"
	askedIdentifier question = "an identifier twice: refused within an autonomous system, and nothing between two (RFC 6286)"
	askedTwice      question = "two sessions with one router, with other families in each"
	askedRelation   question = "AS numbers by relation: internal, external"
	askedRoles      question = "roles that fit, that do not, that one side does not tell; OTC (RFC 9234)"
	askedDistance   question = "TTL security on both sides and on one; several hops"
	askedPreference question = "local preference decides between two nodes"
	askedAggregates question = "an aggregate stays as long as anything under it"
	askedResets     question = "resets by the router; route refresh"
	askedSilence    question = "a router that falls silent is given up (IPv4)"
	askedTables     question = "ten thousand prefixes (IPv4)"
	askedEdits      question = "two hundred and forty edits that concern no session reset none"
	askedFlaps      question = "routes change while the session flaps (IPv4)"
	askedBFD        question = "BFD, one hop and several, takes the session down with its path"
	askedNoBFD      question = "BFD that the router does not run is explained in words, and costs nothing"
	askedCrash      question = "a speaker that crashes is waited for with graceful restart, and not without"
	askedUpgrade    question = "graceful restart keeps forwarding through an upgrade and a change of the peer"
	askedLeave      question = "a node leaves by GRACEFUL_SHUTDOWN, then withdraws (RFC 8326)"
	askedShutdown   question = "shutdown with a message (RFC 9003)"
)

var questions = []question{
	askedRoutes, askedAttributes, askedFamilies, askedNextHops, askedFewer, askedUnnumbered, askedPasswords, askedTrouble, askedFull, askedIdentifier, askedTwice,
	askedRelation, askedRoles, askedDistance,
	askedPreference, askedAggregates, askedResets, askedSilence, askedTables, askedEdits, askedFlaps, askedBFD, askedNoBFD, askedCrash, askedUpgrade,
	askedLeave, askedShutdown,
}

// answersFile holds the table between its two marks.
const (
	answersFile  = "../../../docs/concepts/bgp.md"
	answersBegin = "<!-- written by the tests in internal/bgp/gobgp, with -rewrite -->\n"
	answersEnd   = "<!-- end -->\n"
)

// answers are what the routers have answered to the questions of this run.
type answers struct {
	mu sync.Mutex
	// of finds a question by the test that asks it.
	of map[string]question
	// asked are the judges that were, and whether they could be asked anything;
	// lacking is what they lack.
	asked   map[question]map[string]bool
	lacking map[question]map[string][]string
}

var given = answers{of: map[string]question{}, asked: map[question]map[string]bool{}, lacking: map[question]map[string][]string{}}

// rootOf is the name of the test that a subtest belongs to.
func rootOf(t *testing.T) string {
	name, _, _ := strings.Cut(t.Name(), "/")
	return name
}

// ask makes q what this test and those below it ask. When they have ended what the
// table says must be so.
func ask(t *testing.T, q question) {
	t.Helper()
	given.mu.Lock()
	given.of[rootOf(t)] = q
	given.asked[q], given.lacking[q] = map[string]bool{}, map[string][]string{}
	given.mu.Unlock()
	t.Cleanup(func() {
		// Who asks a part, or has not heard the end, knows but a part.
		if only := flag.Lookup("test.run").Value.String(); t.Failed() || strings.Contains(only, "/") {
			return
		}
		given.mu.Lock()
		defer given.mu.Unlock()
		for j, able := range given.asked[q] {
			answered(t, q, j, answerOf(given.lacking[q][j], able))
		}
	})
}

// answerOf is a cell of the table: what a router lacks for a question, and whether
// it could be asked anything of it.
func answerOf(lacking []string, able bool) string {
	slices.Sort(lacking)
	why := strings.Join(slices.Compact(lacking), ", ")
	switch {
	case why == "":
		return "yes"
	case able:
		return "yes, but " + why
	default:
		return why
	}
}

// judged notes that a router takes part; able when it has what a test wants of it.
func judged(t *testing.T, j string, able bool) {
	given.mu.Lock()
	defer given.mu.Unlock()
	q, ok := given.of[rootOf(t)]
	if !ok {
		return // a test of one router alone, which is no row of the table
	}
	given.asked[q][j] = given.asked[q][j] || able
}

// lacks skips a test that a router cannot be asked.
func lacks(t *testing.T, j judge, why string) {
	t.Helper()
	judged(t, j.name(), false)
	given.mu.Lock()
	q := given.of[rootOf(t)]
	given.lacking[q][j.name()] = append(given.lacking[q][j.name()], why)
	given.mu.Unlock()
	t.Skipf("SKIPPED, %s: %s", j.name(), why)
}

// answerTable reads the table of answers: the file around it, and its lines.
func answerTable(t *testing.T) (before string, rows [][]string, after string) {
	t.Helper()
	text, err := os.ReadFile(answersFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), answersBegin)
	lines, after, whole := strings.Cut(rest, answersEnd)
	if !ok || !whole {
		t.Fatalf("%s has no table of answers", answersFile)
	}
	for line := range strings.Lines(lines) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return before + answersBegin, rows, answersEnd + after
}

// answered compares a cell of the table, or writes it.
func answered(t *testing.T, q question, j, answer string) {
	t.Helper()
	before, rows, after := answerTable(t)
	column := 1 + slices.IndexFunc(judges, func(c candidate) bool { return c.name == j })
	for _, row := range rows {
		if row[0] != string(q) {
			continue
		}
		if row[column] == answer {
			return
		}
		if !*rewrite {
			t.Errorf("%s says %q of %s and %q; it is %q (-rewrite)", answersFile, row[column], j, q, answer)
			return
		}
		row[column] = answer
	}
	var out strings.Builder
	for _, row := range rows {
		fmt.Fprintf(&out, "| %s |\n", strings.Join(row, " | "))
	}
	if err := os.WriteFile(answersFile, []byte(before+out.String()+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTheTableHasARowForEachQuestion(t *testing.T) {
	before, rows, after := answerTable(t)
	want := [][]string{{"what they are asked"}, {"---"}}
	for _, j := range judges {
		want[0], want[1] = append(want[0], j.title), append(want[1], "---")
	}
	for _, q := range questions {
		row := []string{string(q)}
		for range judges {
			row = append(row, "?")
		}
		for _, old := range rows {
			if old[0] == string(q) {
				copy(row, old)
			}
		}
		want = append(want, row)
	}
	same := slices.EqualFunc(rows, want, func(a, b []string) bool { return slices.Equal(a, b) })
	unknown := slices.ContainsFunc(want, func(row []string) bool { return slices.Contains(row, "?") })
	if same && !unknown {
		return
	}
	if !*rewrite {
		t.Fatalf("%s has the rows\n%q, want\n%q (-rewrite)", answersFile, rows, want)
	}
	var out strings.Builder
	for _, row := range want {
		fmt.Fprintf(&out, "| %s |\n", strings.Join(row, " | "))
	}
	if err := os.WriteFile(answersFile, []byte(before+out.String()+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
