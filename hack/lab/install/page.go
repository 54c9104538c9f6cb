package install

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Commands are what the page docs/how-to/install.md says to type: the n-th block
// of commands under a heading, from 0. What is proven here is thereby what users
// read there.
func Commands(root, heading string, n int) (string, error) {
	page := filepath.Join(root, "docs", "how-to", "install.md")
	b, err := os.ReadFile(page)
	if err != nil {
		return "", err
	}
	_, section, found := strings.Cut("\n"+string(b), "\n"+heading+"\n")
	if !found {
		return "", fmt.Errorf("%s has no heading %q", page, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := strings.Split(section, "\n```text\n")[1:]
	if n >= len(blocks) {
		return "", fmt.Errorf("%s has %d blocks of commands under %q, not %d", page, len(blocks), heading, n+1)
	}
	text, _, ended := strings.Cut(blocks[n], "\n```")
	if !ended {
		return "", fmt.Errorf("%s: a block under %q does not end", page, heading)
	}
	return text + "\n", nil
}
