package docs

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// unproved are the sentences about security that no test of ours can show, by their
// beginnings: what a reader is told to do, and what is so of standards, of other programs
// or of people.
var unproved = map[string][]string{
	"concepts/security.md": {
		// About the page.
		"What each of the two programs may do",
		"The number behind a sentence leads to",
		"What else the stock roles",
		"What names none is advice",
		// The kernel, Kubernetes and container runtimes.
		"A user that is not root is given a capability",
		"What the kernel says of the process",
		"| 0 | `false` | no | yes |",
		"| 65532 | `false` or `true` | no | no",
		"| 65532 | `false` or `true` | `net_raw+ep` | yes |",
		"The last would do, and is not how",
		// Protocols, networks and those who own a machine.
		"ARP and NDP authenticate nobody",
		"Switches can bind addresses to ports",
		"**Send anything** to the speaker's packet sockets.",
		"A flood costs processor time.",
		"**Root on a node** can do what the node can",
		"MD5 is weak against who records much",
		"BFD can end a BGP session, so what it trusts matters.",
		"What remains: a station on the wire",
		"With a self-signed certificate somebody on the path",
		// Advice.
		"Who has the key can tell speakers that others are dead: guard the Secret",
		"Bound it with `serviceAllocation`",
		"Kubernetes gives that right to controllers; give it to nobody else.",
		"**Who may create pools and peers** decides",
		"These kinds are cluster-scoped: give the right",
		"Put nothing else there.",
		"Firewall 7870 and 7874 to the nodes",
		"`--metrics-cert`, so that scrapers can tell",
		"`--metrics-address=` turns the unencrypted figures",
		"`overlays/bgp`, if you use no layer 2.",
		"Admission policies on who may set",
	},
	// What people promise is theirs to keep.
	"../SECURITY.md": {
		"In private, please",
		"Say which version",
		"You hear from a maintainer",
		"We publish a fix",
		"What counts as a weakness",
		"ARP and NDP, for instance",
		"| the latest minor release | all |",
		"| the minor release before it | weaknesses |",
		"| the branch `main`",
		"[Stability and support]",
		"For a version `v1.2.3`:",
		"There is no release yet.",
	},
}

var (
	footnote   = regexp.MustCompile(`\[\^([a-z0-9]+)\]`)
	definition = regexp.MustCompile(`(?m)^\[\^([a-z0-9]+)\]: `)
	provedBy   = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)`|[Tt]ranscripts? `")
	label      = regexp.MustCompile(`^\*\*[^*]*\*\*$`)
	begins     = regexp.MustCompile("^[*`\\[(]*[A-Z]")
	sentenceOf = regexp.MustCompile(`[.:!?]((?:\*\*|\)|` + "`" + `)?(?:\[\^[a-z0-9]+\])*)\s+`)
)

// claims are the sentences of a page and the rows of its tables, without its headings, its blocks of code and its footnotes.
func claims(page string) (all []string) {
	var block []string
	end := func() {
		text := strings.Join(strings.Fields(strings.Join(block, " ")), " ")
		block = nil
		for text != "" {
			at := len(text)
			for _, m := range sentenceOf.FindAllStringSubmatchIndex(text, -1) {
				if rest := text[m[1]:]; strings.ContainsAny(text[m[0]:m[0]+1], ".!?") && begins.MatchString(rest) {
					at = m[3]
					break
				}
			}
			if sentence := strings.TrimSpace(text[:at]); !label.MatchString(sentence) {
				all = append(all, sentence)
			}
			text = strings.TrimSpace(text[at:])
		}
	}
	code, notes := false, false
	rows := 0
	for _, line := range strings.Split(page, "\n") {
		trimmed := strings.TrimSpace(line)
		fence := strings.HasPrefix(trimmed, "```")
		row := strings.HasPrefix(trimmed, "|")
		if !row {
			rows = 0
		}
		switch {
		case fence:
			code = !code
			end()
		case code:
		case definition.MatchString(line):
			end()
			notes = true
		case notes && strings.HasPrefix(line, "    "):
		case trimmed == "", strings.HasPrefix(line, "#"):
			notes = false
			end()
		case row:
			end()
			if rows++; rows > 2 { // the head, and the line below it
				all = append(all, trimmed)
			}
		case strings.HasPrefix(trimmed, "- "):
			end()
			block = []string{strings.TrimPrefix(trimmed, "- ")}
		default:
			block = append(block, trimmed)
		}
	}
	end()
	return all
}

// Each sentence of the pages about security names the tests that would fail if it were not
// so, itself or by a footnote, or stands in the list of what cannot be shown.
func TestEachSentenceAboutSecurityNamesItsTest(t *testing.T) {
	for _, page := range []string{"concepts/security.md", "../SECURITY.md"} {
		text := pages(t)[page]
		defined := map[string]string{}
		at := definition.FindAllStringSubmatchIndex(text, -1)
		for i, m := range at {
			until := len(text)
			if i+1 < len(at) {
				until = at[i+1][0]
			}
			defined[text[m[2]:m[3]]] = text[m[1]:until]
		}
		used := map[string]bool{}
		unmet := slices.Clone(unproved[page])
		proved := 0
		for _, c := range claims(text) {
			named := provedBy.MatchString(c)
			for _, m := range footnote.FindAllStringSubmatch(c, -1) {
				used[m[1]] = true
				named = true
				if !provedBy.MatchString(defined[m[1]]) {
					t.Errorf("%s: footnote %s names no test: %q", page, m[1], defined[m[1]])
				}
			}
			i := slices.IndexFunc(unmet, func(begins string) bool { return strings.HasPrefix(c, begins) })
			switch {
			case named && i >= 0:
				t.Errorf("%s: a test is named, and it is said that there can be none: %s", page, c)
			case named:
				proved++
			case i >= 0:
				unmet = slices.Delete(unmet, i, i+1)
			default:
				t.Errorf("%s: no test is named for this sentence: %s", page, c)
			}
		}
		for _, begins := range unmet {
			t.Errorf("%s: no sentence begins with %q", page, begins)
		}
		for name := range defined {
			if !used[name] {
				t.Errorf("%s: footnote %s belongs to no sentence", page, name)
			}
		}
		t.Logf("%s: %d sentences name their tests, %d cannot", page, proved, len(unproved[page]))
	}
}
