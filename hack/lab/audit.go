package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// An AuditEvent is one request that the API server answered.
type AuditEvent struct {
	Verb       string `json:"verb"`
	RequestURI string `json:"requestURI"`
	UserAgent  string `json:"userAgent"`
	User       struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		APIGroup    string `json:"apiGroup"`
		Resource    string `json:"resource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	RequestReceivedTimestamp string `json:"requestReceivedTimestamp"`
}

// String is the request in one line.
func (e AuditEvent) String() string {
	return fmt.Sprintf("%s %s %s %s -> %d", e.RequestReceivedTimestamp, e.User.Username, e.Verb, e.RequestURI, e.ResponseStatus.Code)
}

// Writes reports whether the request meant to change something.
func (e AuditEvent) Writes() bool {
	return slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, e.Verb)
}

// ByServiceAccount reports whether a ServiceAccount of that namespace asked.
func (e AuditEvent) ByServiceAccount(namespace string) bool {
	return strings.HasPrefix(e.User.Username, "system:serviceaccount:"+namespace+":")
}

// An AuditMark is a point in the API server's audit log.
type AuditMark int64

func (c *Cluster) auditLog() string { return filepath.Join(c.run.logDir(), "audit.log") }

// AuditNow marks the present end of the audit log. The API server writes an
// event before it answers, so every request answered by now is before it. A line
// that is being written comes after it.
func (c *Cluster) AuditNow() (AuditMark, error) {
	f, err := os.Open(c.auditLog())
	if err != nil {
		return 0, err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	chunk := make([]byte, 4096)
	for end > 0 {
		n := min(end, int64(len(chunk)))
		if _, err := f.ReadAt(chunk[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(chunk[:n], '\n'); i >= 0 {
			return AuditMark(end - n + int64(i) + 1), nil
		}
		end -= n
	}
	return 0, nil
}

// Audit returns the requests after a mark (0 is the start) that keep keeps.
func (c *Cluster) Audit(since AuditMark, keep func(AuditEvent) bool) ([]AuditEvent, error) {
	f, err := os.Open(c.auditLog())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(int64(since), io.SeekStart); err != nil {
		return nil, err
	}
	var events []AuditEvent
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			return events, nil // a line that is still being written is left out
		}
		if err != nil {
			return nil, err
		}
		var e AuditEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("audit log: %w: %s", err, line)
		}
		if keep(e) {
			events = append(events, e)
		}
	}
}

// Writes are the requests after a mark by which ServiceAccounts of a namespace
// meant to change something other than their leases.
func (c *Cluster) Writes(since AuditMark, namespace string) ([]AuditEvent, error) {
	return c.Audit(since, func(e AuditEvent) bool {
		return e.Writes() && e.ByServiceAccount(namespace) && e.ObjectRef.Resource != "leases"
	})
}
