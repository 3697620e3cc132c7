package private

import (
	"bufio"
	"os/user"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/bounded"
)

// loneGroup tells whether /etc/group has a group of that number which has this user's name
// and no other members.
func loneGroup(gid int) bool {
	self, err := user.Current()
	if err != nil {
		return false
	}
	file, err := bounded.Open("/etc/group")
	if err != nil {
		return false
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		// name:password:number:members, group(5)
		fields := strings.Split(lines.Text(), ":")
		if len(fields) == 4 && fields[2] == strconv.Itoa(gid) {
			return fields[0] == self.Username && (fields[3] == "" || fields[3] == self.Username)
		}
	}
	return false
}
