/* Names for requests and answers that nobody can guess.  Any thread. */
#ifndef SERVER_IDS_H
#define SERVER_IDS_H

enum { ID_LEN = 48 };

/* prefix, at most 16 characters, and 24 random hexadecimal digits. */
void ids_make(char out[ID_LEN], const char *prefix);

#endif
