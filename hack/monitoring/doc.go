// Package monitoring holds the tests of the alerts: Prometheus' own parser reads
// their queries, and its own tester says when they fire. It is apart, so that none
// of what that takes reaches the product.
package monitoring
